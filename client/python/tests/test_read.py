"""Reading without a group."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone

import pytest
from conftest import Broker, soon

import aqueduct
from aqueduct import END, START, Client, Last, Message, Offset, Time


async def fill(client: Client, topic: str, count: int, partitions: int = 1) -> None:
    await client.topics.create(topic, partitions=partitions)
    await client.publish_many(
        topic, [Message(f"{n}", partition=n % partitions) for n in range(count)]
    )


async def test_from_here_to_there(client: Client, topic: str) -> None:
    await fill(client, topic, 10)

    async def read(**arguments: object) -> list[int]:
        return [int(r.text) async for r in client.read(topic, **arguments)]  # type: ignore[arg-type]

    assert await read() == list(range(10))
    assert await read(start=Offset(3), until=Offset(5)) == [3, 4]
    assert await read(start=Last(2)) == [8, 9]
    assert await read(start=END) == []
    assert await read(max_messages=4) == [0, 1, 2, 3]
    assert await read(max_messages=0) == []
    assert await read(start=Time(0), until=Time(1)) == []
    assert await read(start=Time(datetime(1999, 1, 1, tzinfo=timezone.utc))) == list(range(10))
    assert await read(start=START, until=END, follow=True) == list(range(10))
    with pytest.raises(aqueduct.OffsetOutOfRange) as beyond:
        await read(start=Offset(11))
    assert (beyond.value.earliest, beyond.value.latest) == (0, 10)
    with pytest.raises(aqueduct.PartitionNotFound):
        await read(partitions=[3])
    with pytest.raises(aqueduct.InvalidArgument):
        await read(max_messages=-1)
    with pytest.raises(aqueduct.TopicNotFound):
        async for _ in client.read(topic + "x"):
            pass


async def test_some_partitions(client: Client, topic: str) -> None:
    await fill(client, topic, 30, partitions=3)
    numbers = [int(r.text) async for r in client.read(topic, partitions=[0, 2])]
    assert sorted(numbers) == [n for n in range(30) if n % 3 != 1]


async def test_small_credit_delivers_everything(client: Client, topic: str) -> None:
    await client.topics.create(topic, partitions=2)
    for start in range(0, 2_000, 500):
        messages = [Message("x" * 100, headers={"n": f"{start + n}"}) for n in range(500)]
        await client.publish_many(topic, messages)
    seen = 0
    async for record in client.read(topic, buffer_bytes=1_000):
        assert record.value == b"x" * 100
        seen += 1
    assert seen == 2_000


async def test_following(client: Client, topic: str) -> None:
    await fill(client, topic, 2)
    async with client.read(topic, start=START, follow=True) as reader:
        assert [(await soon(anext(reader))).text for _ in range(2)] == ["0", "1"]
        # Giving up for now costs nothing.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(reader), 0.1)
        await client.publish(topic, "2")
        assert (await soon(anext(reader))).text == "2"
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


async def test_leaving_the_loop_leaves_nothing_behind(client: Client, topic: str) -> None:
    await fill(client, topic, 100)
    for _ in range(3):
        async for record in client.read(topic, start=START, follow=True):
            if record.offset == 50:
                break
    before = len(asyncio.all_tasks())
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) <= before


async def test_reading_goes_on_after_the_broker_was_killed(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t", partitions=3)
        for start in range(0, 6_000, 1_000):
            messages = [Message(f"{n}", partition=n % 3) for n in range(start, start + 1_000)]
            await client.publish_many("t", messages)
        seen: list[int] = []
        async for record in client.read("t", buffer_bytes=2_000, max_messages=5_500):
            seen.append(int(record.text))
            if len(seen) in (1_000, 3_000):
                await asyncio.to_thread(own_broker.restart)
        assert len(seen) == 5_500 and len(set(seen)) == 5_500
        for partition in range(3):
            mine = [n for n in seen if n % 3 == partition]
            assert mine == list(range(partition, 3 * len(mine), 3)), "in order, without a gap"


async def test_a_broker_that_stays_away_is_an_error(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t")
        await client.publish("t", "a")
        reader = client.read("t", start=START, follow=True, retry_timeout=0.5)
        assert (await soon(anext(reader))).text == "a"
        own_broker.kill()
        with pytest.raises(aqueduct.Unavailable):
            await soon(anext(reader))
