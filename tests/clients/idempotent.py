"""Produces numbered records with idempotence and prints one JSON line per delivery report.

idempotent.py BOOTSTRAP TOPIC COUNT
"""

import json
import sys

from confluent_kafka import Producer


def main() -> int:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 2,
            "batch.num.messages": 50,
            "message.timeout.ms": 120000,
            "reconnect.backoff.max.ms": 200,
        }
    )

    def report(error, message):
        line = {
            "partition": message.partition(),
            "offset": message.offset(),
            "value": message.value().decode(),
            "error": str(error) if error else None,
        }
        print(json.dumps(line), flush=True)

    for number in range(count):
        producer.produce(topic, value=str(number), partition=number % 3, on_delivery=report)
        producer.poll(0.0005)
    return 1 if producer.flush(120) else 0


if __name__ == "__main__":
    sys.exit(main())
