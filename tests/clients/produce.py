"""Produces records with idempotence and acks=all, and tells of each delivery report as a line of JSON.

produce.py BOOTSTRAP TOPIC FILE COUNT BATCH

FILE holds a record a line: key, tab, value. They are sent in order, from the start again at the end, until there are
COUNT and a line, or the end, has come on the standard input; a report names its record by its number among those. BATCH
is the most records of one batch. A lost connection is told too, with how many records had no answer then, and at the end
how many records there were.
"""

import itertools
import json
import select
import sys

from confluent_kafka import KafkaError, Producer

# Records that wait for their answers, in batches: more than the connection takes at once, so that the broker is never
# without work, and few enough that a report tells how far the broker is.
WAITING_BATCHES = 20


def tell(event):
    print(json.dumps(event), flush=True)


def is_told_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main() -> int:
    bootstrap, topic, path = sys.argv[1:4]
    count, batch = int(sys.argv[4]), int(sys.argv[5])
    with open(path, "rb") as file:
        records = [line.rstrip(b"\n").split(b"\t", 1) for line in file]

    def stumbled(error):
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            tell({"disconnected": len(producer)})
        print(error, file=sys.stderr, flush=True)

    def reporter(number):
        def report(error, message):
            told = {"record": number, "partition": message.partition(), "offset": message.offset()}
            tell({**told, "error": str(error)} if error else told)

        return report

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 2,
            "batch.num.messages": batch,
            "queue.buffering.max.messages": WAITING_BATCHES * batch,
            "message.timeout.ms": 120000,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "error_cb": stumbled,
        }
    )
    for number in itertools.count():
        if number >= count and is_told_to_stop():
            tell({"produced": number})
            break
        key, value = records[number % len(records)]
        while True:
            try:
                producer.produce(topic, key=key, value=value, on_delivery=reporter(number))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    return 1 if producer.flush(120) else 0


if __name__ == "__main__":
    sys.exit(main())
