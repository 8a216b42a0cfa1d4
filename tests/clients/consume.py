"""A member of a consumer group. It reads as far as it is told, and tells what it does as lines of JSON.

consume.py BOOTSTRAP GROUP TOPIC

Told on its standard input, by a line of JSON: {"read": {"0": 12, ...}, "commit": true} reads every partition that it
has, or will have, up to these offsets, and commits each that is there (with "commit": false only says so).
"""

import json
import queue
import sys
import threading

from confluent_kafka import Consumer, KafkaException, TopicPartition

MESSAGES_PER_TURN = 100


def tell(event):
    print(json.dumps(event), flush=True)


class Member:
    """What a member knows: how far it is with each of its partitions, and how far it is to read."""

    def __init__(self, bootstrap, group, topic):
        self.topic = topic
        self.goals = {}
        self.commits = False
        self.positions = {}  # the next offset to read, of each partition it has
        self.settled = {}  # how far the group has committed, or been told of
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 500,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 200,
            }
        )
        self.consumer.subscribe(
            [topic], on_assign=self.assigned, on_revoke=self.revoked, on_lost=self.lost
        )

    def assigned(self, consumer, partitions):
        consumer.assign(partitions)
        consumer.pause(partitions)
        for found in consumer.committed(partitions, timeout=30):
            self.positions[found.partition] = self.settled[found.partition] = max(found.offset, 0)
        tell({"assigned": self.positions})
        self.go_on()

    def revoked(self, _consumer, _partitions):
        self.settle()
        self.forget()

    def lost(self, _consumer, _partitions):
        self.forget()

    def forget(self):
        tell({"revoked": sorted(self.positions)})
        self.positions.clear()
        self.settled.clear()

    def told(self, order):
        self.goals = {int(partition): offset for partition, offset in order["read"].items()}
        self.commits = order["commit"]
        self.go_on()

    def behind(self, partition):
        return self.positions[partition] < self.goals.get(partition, 0)

    def go_on(self):
        behind = [TopicPartition(self.topic, p) for p in self.positions if self.behind(p)]
        if behind:
            self.consumer.resume(behind)

    def read(self, message):
        partition, offset = message.partition(), message.offset()
        place = {"partition": partition, "offset": offset}
        tell({**place, "key": message.key().decode(), "value": message.value().decode()})
        self.positions[partition] = offset + 1
        if not self.behind(partition):
            self.consumer.pause([TopicPartition(self.topic, partition)])

    def settle(self):
        """Commits, or tells of, every partition that is at its goal. What is refused is tried again."""
        for partition, position in self.positions.items():
            if self.settled[partition] == position or self.behind(partition):
                continue
            if self.commits:
                offsets = [TopicPartition(self.topic, partition, position)]
                try:
                    self.consumer.commit(offsets=offsets, asynchronous=False)
                except KafkaException as refusal:
                    print(refusal, file=sys.stderr, flush=True)
                    return
            tell({"committed" if self.commits else "reached": partition, "offset": position})
            self.settled[partition] = position

    def turn(self):
        # One at a time: what a pause comes before is not given out.
        for _ in range(MESSAGES_PER_TURN):
            message = self.consumer.poll(0.02)
            if message is None:
                break
            if message.error():
                print(message.error(), file=sys.stderr, flush=True)
            else:
                self.read(message)
        self.settle()


def main() -> int:
    orders = queue.Queue()

    def listen():
        for line in sys.stdin:
            orders.put(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    member = Member(*sys.argv[1:4])
    while True:
        while not orders.empty():
            member.told(orders.get())
        member.turn()


if __name__ == "__main__":
    sys.exit(main())
