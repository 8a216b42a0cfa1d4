"""A librdkafka producer with acks=all that measures how long each partition goes without an acknowledgement.

gaps.py BOOTSTRAP TOPIC PARTITIONS RATE

It sends RATE records a second, in turn to each partition, with the client's own defaults and idempotence. A line of
input ends a window: once every partition has been acknowledged again it tells the longest gap of that window, in
milliseconds and over all partitions, as a line of JSON, and begins the next.
"""

import json
import queue
import sys
import threading
import time

from confluent_kafka import Producer

PATIENCE_S = 60

bootstrap, topic, partitions, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
orders = queue.Queue()
last = [None] * partitions
longest = 0.0
failed = 0


def acknowledged(error, message):
    global longest, failed
    now = time.monotonic()
    if error is not None:
        failed += 1
        return
    partition = message.partition()
    if last[partition] is not None:
        longest = max(longest, now - last[partition])
    last[partition] = now


def listen():
    for line in sys.stdin:
        orders.put(line)
    orders.put(None)


def window_ends(asked):
    return all(at is not None and at > asked for at in last)


threading.Thread(target=listen, daemon=True).start()
sent = 0
started = time.monotonic()
asked = None
while True:
    due = int((time.monotonic() - started) * rate)
    while sent < due:
        try:
            producer.produce(topic, b"x" * 100, partition=sent % partitions, on_delivery=acknowledged)
        except BufferError:
            break
        sent += 1
    producer.poll(0.001)
    if asked is None and not orders.empty():
        if orders.get() is None:
            break
        asked = time.monotonic()
    if asked is not None and (window_ends(asked) or time.monotonic() > asked + PATIENCE_S):
        print(json.dumps({"gap_ms": longest * 1000, "failed": failed, "whole": window_ends(asked)}), flush=True)
        longest, asked = 0.0, None
