"""Consuming as a member of a group, with members and brokers that go away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import Broker, soon, until

import aqueduct
from aqueduct import START, Assigned, Client, Consumer, Lost, Message, Offset, Record, Revoking

EXAMPLE = Path(__file__).resolve().parent.parent / "example" / "order_events.py"


async def fill(client: Client, topic: str, count: int, partitions: int = 1) -> None:
    await client.topics.create(topic, partitions=partitions)
    await add(client, topic, range(count), partitions)


async def add(client: Client, topic: str, numbers: range, partitions: int = 1) -> None:
    messages = [Message(f"{n}", partition=n % partitions) for n in numbers]
    for result in await client.publish_many(topic, messages):
        assert isinstance(result, aqueduct.Ack)


async def take(consumer: Consumer, count: int) -> list[int]:
    return [int((await soon(anext(consumer))).text) for _ in range(count)]


async def lag(client: Client, topic: str) -> int:
    return (await client.groups.lag(topic, "g")).messages


async def _lag_is(client: Client, topic: str, expected: int) -> bool:
    return await lag(client, topic) == expected


class Running:
    """A member that consumes by itself until the block is left."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.records: list[Record] = []

    async def run(self) -> None:
        async for record in self.consumer:
            self.records.append(record)

    @property
    def numbers(self) -> list[int]:
        return [int(record.text) for record in self.records]


@asynccontextmanager
async def running(consumer: Consumer) -> AsyncIterator[Running]:
    async with consumer:
        member = Running(consumer)
        task = asyncio.create_task(member.run())
        yield member
        await consumer.aclose()
        await soon(task)


async def test_what_is_done_is_committed(client: Client, topic: str) -> None:
    await fill(client, topic, 10)
    async with client.consumer(topic, "g") as consumer:
        assert consumer.partitions in ([], [0])
        assert await take(consumer, 4) == [0, 1, 2, 3]
        assert consumer.partitions == [0]
        await until(lambda: _lag_is(client, topic, 7))
    # The fourth was given out, but the next one never asked for.
    assert await lag(client, topic) == 7
    async with client.consumer(topic, "g") as consumer:
        assert await take(consumer, 7) == [3, 4, 5, 6, 7, 8, 9]
        await consumer.commit()
        assert await lag(client, topic) == 0
        await add(client, topic, range(10, 11))
        assert await take(consumer, 1) == [10]
    with pytest.raises(StopAsyncIteration):
        await anext(consumer)
    with pytest.raises(aqueduct.Closed):
        await consumer.__aenter__()


async def test_what_is_done_is_committed_at_the_end(client: Client, topic: str) -> None:
    await fill(client, topic, 100)
    async with client.consumer(topic, "g", commit_interval=3_600) as consumer:
        await take(consumer, 51)
    assert await lag(client, topic) == 50
    assert (await client.groups.get(topic, "g")).members == 0, "it has left"


async def test_commits_by_hand(client: Client, topic: str) -> None:
    await fill(client, topic, 10)
    async with client.consumer(topic, "g", auto_commit=False) as consumer:
        records = [await soon(anext(consumer)) for _ in range(5)]
        await consumer.commit(records[2])
        assert await lag(client, topic) == 7
        with pytest.raises(aqueduct.CommitBackwards) as backwards:
            await consumer.commit(records[0])
        assert backwards.value.position == 3
        await consumer.commit()
        await consumer.commit()
        assert await lag(client, topic) == 5
        stranger = [record async for record in client.read(topic)]
        with pytest.raises(aqueduct.InvalidArgument):
            await consumer.commit(stranger[9])
    assert await lag(client, topic) == 5


async def test_a_handler_that_raises_has_not_done_it(client: Client, topic: str) -> None:
    await fill(client, topic, 5)
    with pytest.raises(ZeroDivisionError):
        async with client.consumer(topic, "g") as consumer:
            async for record in consumer:
                if record.text == "3":
                    raise ZeroDivisionError
    assert await lag(client, topic) == 2


async def test_giving_up_for_now_costs_nothing(client: Client, topic: str) -> None:
    await fill(client, topic, 1)
    async with client.consumer(topic, "g") as consumer:
        await take(consumer, 1)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(consumer), 0.05)
        await add(client, topic, range(1, 2))
        assert await take(consumer, 1) == [1]


async def test_small_credit_delivers_everything(client: Client, topic: str) -> None:
    await fill(client, topic, 3_000, partitions=3)
    async with client.consumer(topic, "g", prefetch=10, prefetch_bytes=40) as consumer:
        assert sorted(await take(consumer, 3_000)) == list(range(3_000))
    await client.groups.seek(topic, "g", to=START)
    async with client.consumer(topic, "g", prefetch=1) as consumer:
        assert len(set(await take(consumer, 200))) == 200


async def test_members_share_and_hand_over_without_doubles(client: Client, topic: str) -> None:
    """A second member comes while the first is busy, and the first one leaves: nothing is lost, and
    as all leave cleanly nothing comes twice."""
    await fill(client, topic, 3_000, partitions=6)
    events: list[object] = []
    async with running(client.consumer(topic, "g", on_rebalance=events.append)) as first:
        await until(lambda: len(first.records) > 100)
        async with running(client.consumer(topic, "g")) as second:
            await until(lambda: len(second.consumer.partitions) == 3)
            await add(client, topic, range(3_000, 6_000), 6)
            await until(lambda: len(first.records) + len(second.records) >= 6_000)
            assert len(first.consumer.partitions) == 3
            await first.consumer.aclose()
            await until(lambda: len(second.consumer.partitions) == 6)
            await add(client, topic, range(6_000, 6_600), 6)
            await until(lambda: len(first.records) + len(second.records) >= 6_600)
    seen = first.numbers + second.numbers
    assert sorted(seen) == list(range(6_600))
    for member in (first, second):
        for partition in range(6):
            mine = [r.offset for r in member.records if r.partition == partition]
            assert mine == sorted(mine)
    assert await lag(client, topic) == 0
    asked = [event for event in events if isinstance(event, Revoking)]
    assert isinstance(events[0], Assigned)
    assert sum(len(event.partitions) for event in asked) == 3
    assert not any(isinstance(event, Lost) for event in events)


async def test_a_partition_waits_for_the_commit_of_its_record(client: Client, topic: str) -> None:
    """Without automatic commits: what was given out is committed before the other one gets it."""
    await fill(client, topic, 4, partitions=2)
    handled: list[str] = []

    async def on_rebalance(event: object) -> None:
        if isinstance(event, Revoking):
            await asyncio.sleep(0.05)
            await first.commit()
            handled.append("committed")

    first = client.consumer(topic, "g", auto_commit=False, on_rebalance=on_rebalance)
    async with first:
        assert len(await take(first, 4)) == 4
        async with client.consumer(topic, "g", auto_commit=False) as second:
            await until(lambda: len(second.partitions) == 1)
            assert handled == ["committed"]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(second), 0.2)


async def test_a_seek_moves_a_running_member(client: Client, topic: str) -> None:
    await fill(client, topic, 10)
    events: list[object] = []
    consumer = client.consumer(topic, "g", auto_commit=False, on_rebalance=events.append)
    async with consumer:
        old = [await soon(anext(consumer)) for _ in range(10)]
        await client.groups.seek(topic, "g", to=Offset(7), partitions=[0])
        assert await take(consumer, 3) == [7, 8, 9]
        assert any(isinstance(event, Lost) and event.reason == "SEEK" for event in events)
        with pytest.raises(aqueduct.CommitFenced):
            await consumer.commit(old[8])
        await consumer.commit()
        assert await lag(client, topic) == 0


async def test_a_static_member_keeps_its_place(client: Client, topic: str) -> None:
    await fill(client, topic, 20, partitions=2)
    other = client.consumer(topic, "g", instance_id="b")
    async with client.consumer(topic, "g", instance_id="a") as first, other:
        await until(lambda: len(first.partitions) == len(other.partitions) == 1)
        mine = first.partitions
        async with client.consumer(topic, "g", instance_id="a") as newer:
            with pytest.raises(aqueduct.MemberFenced):
                while True:
                    await soon(anext(first))
            await until(lambda: newer.partitions == mine)
            assert len(other.partitions) == 1


async def test_refusals_at_the_opening(client: Client, topic: str) -> None:
    with pytest.raises(aqueduct.TopicNotFound):
        async with client.consumer(topic, "g"):
            pass
    await client.topics.create(topic)
    with pytest.raises(aqueduct.GroupNotFound):
        async with client.consumer(topic, "g", must_exist=True):
            pass
    with pytest.raises(aqueduct.InvalidArgument):
        async with client.consumer(topic, "no spaces please"):
            pass
    consumer = client.consumer(topic, "g")
    with pytest.raises(StopAsyncIteration):
        await anext(consumer)


async def test_the_topic_is_deleted(client: Client, topic: str) -> None:
    await fill(client, topic, 1)
    async with client.consumer(topic, "g") as consumer:
        await take(consumer, 1)
        await client.topics.delete(topic)
        with pytest.raises(aqueduct.TopicNotFound):
            await soon(anext(consumer))


async def test_a_removed_member_ends(client: Client, topic: str) -> None:
    await fill(client, topic, 1)
    async with client.consumer(topic, "g") as consumer:
        await take(consumer, 1)
        await client.leave(topic, "g", consumer.member_id)
        with pytest.raises(aqueduct.MemberRemoved):
            await soon(anext(consumer))
    assert await client.groups.members(topic, "g") == []


async def test_a_deleted_group_is_not_made_again(client: Client, server: str, topic: str) -> None:
    async def delete() -> None:
        async with await Client.connect(server) as other:
            while True:
                try:
                    return await other.groups.delete(topic, "g")
                except aqueduct.GroupNotEmpty:
                    await asyncio.sleep(0.1)

    await fill(client, topic, 1)
    await client.groups.create(topic, "g", session_timeout=1)
    async with client.consumer(topic, "g") as consumer:
        await take(consumer, 1)
        # Here everything stands still for longer than the session.
        deleting = threading.Thread(target=lambda: asyncio.run(delete()))
        deleting.start()
        deleting.join()
        with pytest.raises(aqueduct.GroupNotFound):
            await soon(anext(consumer))
    with pytest.raises(aqueduct.GroupNotFound):
        await client.groups.get(topic, "g")


async def test_what_retention_took_is_told(client: Client, topic: str) -> None:
    await fill(client, topic, 10)
    await client.groups.create(topic, "g")
    await client.groups.create(topic, "strict", overrun=aqueduct.StartPolicy.ERROR)
    for group in ("g", "strict"):
        await client.commit(topic, group, [aqueduct.Commit(0, 2)])
    await client.topics.trim(topic, before=Offset(6), partition=0)
    events: list[object] = []
    async with client.consumer(topic, "g", on_rebalance=events.append) as consumer:
        assert await take(consumer, 4) == [6, 7, 8, 9]
        assert isinstance(events[0], Assigned)
        assert events[0].assignments[0].skipped == (2, 6)
    async with client.consumer(topic, "strict") as consumer:
        with pytest.raises(aqueduct.DeliveryStopped) as stopped:
            await soon(anext(consumer))
        assert (stopped.value.reason, stopped.value.partitions) == ("OVERRUN", (0,))
        await client.groups.seek(topic, "strict", to=START)
        assert await take(consumer, 4) == [6, 7, 8, 9]


async def test_members_survive_a_killed_broker(own_broker: Broker) -> None:
    """The broker is killed with -9 under two members: everything arrives, and committed positions
    never go back."""
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t", partitions=4)
        events: list[object] = []
        async with (
            running(client.consumer("t", "g", on_rebalance=events.append)) as first,
            running(client.consumer("t", "g")) as second,
        ):
            positions = [0] * 4
            for start in (0, 2_000, 4_000):
                await add(client, "t", range(start, start + 2_000), 4)
                wanted = start + 500
                await until(lambda n=wanted: len(first.records) + len(second.records) > n)  # type: ignore[misc]
                # The first may be on its way back still, with nothing to lose then.
                await until(lambda: first.consumer.partitions != [])
                await asyncio.to_thread(own_broker.restart)
                for partition in (await client.groups.lag("t", "g")).partitions:
                    position = partition.position or 0
                    assert position >= positions[partition.partition]
                    positions[partition.partition] = position
            everything = set(range(6_000))
            await until(lambda: set(first.numbers + second.numbers) == everything)
            await until(lambda: _lag_is(client, "t", 0))
            # A write that failed first hides the end of the stream for a moment.
            await until(
                lambda: any(isinstance(e, Lost) and e.reason == "DISCONNECTED" for e in events)
            )


async def test_a_broker_that_stays_away_is_an_error(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t")
        await client.publish("t", "a")
        consumer = client.consumer("t", "g", auto_commit=False, retry_timeout=0.5)
        async with consumer:
            record = await soon(anext(consumer))
            own_broker.kill()
            with pytest.raises(aqueduct.Unavailable):
                await soon(consumer.commit(record))
            with pytest.raises(aqueduct.Unavailable):
                await soon(anext(consumer))


async def test_a_member_that_vanishes_is_replaced(own_broker: Broker) -> None:
    """A process that is killed with -9 is replaced when its session ends."""
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t", partitions=2)
        await client.groups.create("t", "g", session_timeout=2)
        await add(client, "t", range(100), 2)
        script = (
            "import asyncio, sys, aqueduct\n"
            "async def main():\n"
            "    async with await aqueduct.Client.connect(sys.argv[1]) as client:\n"
            "        async with client.consumer('t', 'g', auto_commit=False) as consumer:\n"
            "            async for record in consumer:\n"
            "                print(record.text, flush=True)\n"
            "                await asyncio.sleep(0.01)\n"
            "asyncio.run(main())\n"
        )
        doomed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, own_broker.address, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert doomed.stdout is not None
            await soon(doomed.stdout.readline())
        finally:
            doomed.kill()
            await doomed.communicate()
        async with client.consumer("t", "g") as heir:
            assert sorted(await take(heir, 100)) == list(range(100))


async def test_the_example(own_broker: Broker) -> None:
    def run() -> str:
        command = [sys.executable, str(EXAMPLE), own_broker.address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = await soon(asyncio.to_thread(run))
    assert "published 1000 orders" in said
    billed = [int(line.split()[2]) for line in said.splitlines() if " billed " in line]
    assert sum(billed) == 1_000 and len(billed) == 2
