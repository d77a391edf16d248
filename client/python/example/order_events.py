"""A service that publishes order events, and two that share the work of billing them.

Start a broker (`cargo run --release`), then:

    pip install ./client/python
    python client/python/example/order_events.py
"""

from __future__ import annotations

import asyncio
import json
import sys

import aqueduct

TOPIC = "order-events"
GROUP = "billing"


async def take_orders(client: aqueduct.Client, count: int) -> None:
    """Publishes events. Those of one customer stay in order, because they have one key."""
    async with client.producer(TOPIC) as producer:
        for number in range(count):
            event = {"order": number, "cents": 100 + number}
            await producer.send(json.dumps(event), key=f"customer-{number % 10}")
    print(f"published {count} orders, each on stable storage")


async def bill(client: aqueduct.Client, name: str, billed: dict[int, str]) -> None:
    """Bills orders until there are none for a while. An order counts as done when the next one is
    asked for; after a crash it comes again, so billing looks whether it was done already."""
    async with client.consumer(TOPIC, GROUP, client_id=name) as consumer:
        while True:
            try:
                record = await asyncio.wait_for(anext(consumer), timeout=2)
            except asyncio.TimeoutError:
                return
            order = json.loads(record.text)["order"]
            billed.setdefault(order, name)


async def main(address: str, count: int = 1_000) -> None:
    """Everything in one process; as a rule these are three."""
    async with await aqueduct.Client.connect(address) as client:
        try:
            await client.topics.create(TOPIC, partitions=6)
        except aqueduct.TopicExists:
            print("the topic is there already")
        billed: dict[int, str] = {}
        await asyncio.gather(
            take_orders(client, count),
            bill(client, "billing-1", billed),
            bill(client, "billing-2", billed),
        )
        for name in ("billing-1", "billing-2"):
            print(f"{name} billed {sum(by == name for by in billed.values())} orders")
        lag = await client.groups.lag(TOPIC, GROUP)
        print(f"left to bill: {lag.messages}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7320"))
