"""A member of a consumer group of the next generation (KIP-848). It reads what it is given, and tells what it does as
lines of JSON.

share.py BOOTSTRAP GROUP PATTERN

The broker matches the pattern. What was read is committed before partitions are given back.
"""

import json
import sys

from confluent_kafka import Consumer, KafkaException


def tell(event):
    print(json.dumps(event), flush=True)


def places(partitions):
    return sorted([found.topic, found.partition] for found in partitions)


def assigned(consumer, partitions):
    consumer.incremental_assign(partitions)
    tell({"assigned": places(partitions)})


def revoked(consumer, partitions):
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as refusal:
        print(refusal, file=sys.stderr, flush=True)
    consumer.incremental_unassign(partitions)
    tell({"revoked": places(partitions)})


def lost(consumer, partitions):
    consumer.incremental_unassign(partitions)
    tell({"revoked": places(partitions)})


def main() -> int:
    bootstrap, group, pattern = sys.argv[1:4]
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
        }
    )
    consumer.subscribe([pattern], on_assign=assigned, on_revoke=revoked, on_lost=lost)
    while True:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            print(message.error(), file=sys.stderr, flush=True)
            continue
        place = [message.topic(), message.partition(), message.offset()]
        tell({"read": place, "value": message.value().decode()})


if __name__ == "__main__":
    sys.exit(main())
