"""Working through queue groups: calls, verdicts, workers, and brokers that go away."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from datetime import datetime, timezone

import pytest
from conftest import Broker, soon, until

import aqueduct
from aqueduct import Client, Failure, Job, LeaseLost, Message, QueuePolicy, Settlement, Verdict


async def fill(client: Client, topic: str, count: int, policy: QueuePolicy | None = None) -> None:
    await client.topics.create(topic, partitions=1)
    await client.groups.create(topic, "work", queue=policy or QueuePolicy())
    for result in await client.publish_many(topic, [Message(f"{n}") for n in range(count)]):
        assert isinstance(result, aqueduct.Ack)


async def dead_letters(client: Client, topic: str, count: int) -> list[aqueduct.Record]:
    """So many copies in the dead-letter topic."""
    found: list[aqueduct.Record] = []

    async def all_there() -> bool:
        found.clear()
        try:
            async for record in client.read(f"{topic}.work.dlq", start=aqueduct.START):
                found.append(record)
        except aqueduct.TopicNotFound:
            return False
        return len(found) >= count

    await until(all_there)
    assert len(found) == count
    return found


async def is_done(client: Client, topic: str) -> bool:
    return (await client.groups.lag(topic, "work")).messages == 0


async def test_each_verdict_does_what_it_says(client: Client, topic: str) -> None:
    await fill(client, topic, 3, QueuePolicy(backoff=60, max_attempts=5))
    queue = client.queue(topic, "work")
    jobs = await queue.lease(10, wait=30)
    assert [job.record.text for job in jobs] == ["0", "1", "2"]
    assert [job.lease for job in jobs] == [jobs[0].lease + n for n in range(3)]
    done, failed, given = jobs
    assert done.attempt == done.hand_outs == 1
    assert done.first_failure is None
    assert done.lease_deadline > datetime.now(timezone.utc)
    assert await queue.lease(10) == []
    await queue.extend(done, 60)
    await queue.ack(done)
    await queue.retry(failed, "no stock", after=0)
    await queue.release(given)
    again = {job.record.text: job for job in await queue.lease(10, wait=30)}
    assert sorted(again) == ["1", "2"]
    assert (again["1"].attempt, again["1"].last_error) == (2, "no stock")
    assert again["1"].first_failure is not None
    assert (again["2"].attempt, again["2"].hand_outs) == (1, 2)
    await queue.dead_letter(again["1"], "never")
    with pytest.raises(LeaseLost):
        await queue.ack(failed)
    results = await queue.settle(
        [Settlement.of(again["2"], Verdict.ack()), Settlement.of(done, Verdict.ack())]
    )
    assert results[0] is None
    assert isinstance(results[1], LeaseLost)
    (letter,) = await dead_letters(client, topic, 1)
    assert letter.header("__dlq.errors.message") == b"never"
    assert letter.header("aq-dead-attempts") == b"2"


async def test_bad_requests_are_refused_by_name(client: Client, topic: str) -> None:
    with pytest.raises(aqueduct.TopicNotFound):
        await client.queue(topic, "work").lease()
    await fill(client, topic, 1)
    with pytest.raises(aqueduct.GroupNotFound):
        await client.queue(topic, "other").lease()
    queue = client.queue(topic, "work")
    with pytest.raises(aqueduct.InvalidArgument):
        await queue.lease(10_001)
    with pytest.raises(aqueduct.InvalidArgument):
        await queue.lease(-1)
    (job,) = await queue.lease(1, wait=30)
    with pytest.raises(aqueduct.InvalidArgument):
        await queue.extend(job, 0)
    with pytest.raises(aqueduct.InvalidArgument):
        await client.groups.create(topic, "bad", queue=QueuePolicy(max_attempts=0))
    await client.groups.create(topic, "stream")
    with pytest.raises(aqueduct.Conflict):
        async with client.queue(topic, "stream").worker(_nothing) as worker:
            await soon(worker.ended())


async def _nothing(job: Job) -> None:
    pass


async def test_a_worker_works_everything_off_and_never_more_at_a_time(
    client: Client, topic: str
) -> None:
    await fill(client, topic, 60, QueuePolicy(backoff=0.01, backoff_jitter_percent=0))
    seen: Counter[str] = Counter()
    at_once = most = 0

    async def handle(job: Job) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(0.01)
            seen[job.record.text] += 1
            number = int(job.record.text)
            if number % 10 == 3 and job.attempt == 1:
                raise ValueError("the first attempt fails")
            if number % 10 == 4 and job.attempt == 1:
                raise Failure.retry("later", after=0)
            if number % 10 == 5:
                raise Failure.dead_letter("never")
            if number % 10 == 6 and job.hand_outs == 1:
                raise Failure.release()
        finally:
            at_once -= 1

    async with client.queue(topic, "work").worker(handle, concurrency=4) as worker:
        await until(lambda: is_done(client, topic))
        stats = worker.stats
    assert 1 < most <= 4
    again = {str(n) for n in range(60) if n % 10 in (3, 4, 6)}
    assert seen == Counter({str(n): 2 if str(n) in again else 1 for n in range(60)})
    assert (stats.done, stats.failed, stats.lost) == (54, 24, 0)
    letters = await dead_letters(client, topic, 6)
    assert {letter.text for letter in letters} == {str(n) for n in range(5, 60, 10)}


async def test_leases_are_renewed_while_the_handler_runs(client: Client, topic: str) -> None:
    await fill(client, topic, 1, QueuePolicy(lease=2))
    seen: list[int] = []

    async def handle(job: Job) -> None:
        seen.append(job.hand_outs)
        await asyncio.sleep(6)

    async with client.queue(topic, "work").worker(handle) as worker:
        await until(lambda: is_done(client, topic))
        assert (worker.stats.done, worker.stats.lost) == (1, 0)
    assert seen == [1]


async def test_a_handler_is_cancelled_when_its_lease_is_lost(client: Client, topic: str) -> None:
    await fill(client, topic, 1, QueuePolicy(lease=1))
    cancelled = asyncio.Event()
    began = asyncio.Event()
    done: list[int] = []

    async def handle(job: Job) -> None:
        if job.hand_outs > 1 or began.is_set():
            done.append(job.lease)
            return
        began.set()
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with client.queue(topic, "work").worker(handle) as worker:
        await soon(began.wait())
        # All leases end by it, and what their holders say is too late.
        await client.groups.seek(topic, "work", to=aqueduct.START)
        await soon(cancelled.wait())
        await until(lambda: is_done(client, topic))
        assert (worker.stats.done, worker.stats.lost) == (1, 1)
    assert len(done) == 1


async def test_the_end_drains_and_gives_back(client: Client, topic: str) -> None:
    await fill(client, topic, 8, QueuePolicy(lease=60))
    finish, begun = asyncio.Event(), []

    async def handle(job: Job) -> None:
        begun.append(job.record.text)
        if int(job.record.text) % 2:
            await asyncio.sleep(3_600)
        await finish.wait()

    queue = client.queue(topic, "work")
    worker = queue.worker(handle, concurrency=6, grace=0.5)
    async with worker:
        await until(lambda: len(begun) == 6)
        finish.set()
        await until(lambda: worker.stats.done >= 3)
    # Of those that did not end, nothing failed, and all are ready at once.
    assert worker.running == 0
    left = await queue.lease(10)
    assert {job.attempt for job in left} == {1}
    assert len(left) == 8 - worker.stats.done
    await queue.settle([Settlement.of(job, Verdict.ack()) for job in left])


async def test_run_until_stops(client: Client, topic: str) -> None:
    await fill(client, topic, 5)
    stop, done = asyncio.Event(), []

    async def handle(job: Job) -> None:
        done.append(job.record.text)
        if len(done) == 5:
            stop.set()

    await soon(client.queue(topic, "work").worker(handle).run_until(stop.wait()))
    assert sorted(done) == ["0", "1", "2", "3", "4"]
    assert await is_done(client, topic)


async def test_a_broker_that_is_killed_costs_no_attempt(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await fill(client, "jobs", 20, QueuePolicy(lease=20))
        seen: Counter[str] = Counter()
        running: set[str] = set()

        async def handle(job: Job) -> None:
            name = job.record.text
            seen[name] += 1
            running.add(name)
            await asyncio.sleep(0.5)
            running.remove(name)

        async with client.queue("jobs", "work").worker(handle, concurrency=4) as worker:
            await until(lambda: len(seen) >= 6 and len(running) > 0)
            own_broker.kill()
            held = set(running)
            await asyncio.to_thread(own_broker.start)
            await until(lambda: worker.stats.done >= 14)

            async def done() -> bool:
                try:
                    return await is_done(client, "jobs")
                except aqueduct.Unavailable:
                    return False

            await until(done)
        assert held
        assert all(seen[name] == 1 for name in held)


async def test_a_broker_that_stands_still_for_longer_than_the_lease(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await fill(client, "jobs", 1, QueuePolicy(lease=1, backoff=0.01))
        ends: list[str] = []

        async def handle(job: Job) -> None:
            if job.attempt > 1:
                ends.append("done")
                return
            try:
                own_broker.send(signal.SIGSTOP)
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                ends.append("cancelled")
                own_broker.send(signal.SIGCONT)
                raise

        async with client.queue("jobs", "work").worker(handle) as worker:
            await until(lambda: "done" in ends)
            await until(lambda: is_done(client, "jobs"))
            assert worker.stats.lost == 1
        assert ends == ["cancelled", "done"]


async def test_a_group_begins_at_a_place(client: Client, topic: str) -> None:
    await client.topics.create(topic, partitions=1)
    await client.publish_many(topic, [Message(f"{n}") for n in range(5)])
    made = await client.groups.create(
        topic, "work", start=aqueduct.Last(2), queue=QueuePolicy(order_per_key=True)
    )
    assert made.is_queue
    assert (made.start, made.start_offsets) == (aqueduct.StartPolicy.PINNED, (3,))
    jobs = await client.queue(topic, "work").lease(10, wait=30)
    assert [job.record.text for job in jobs] == ["3", "4"]
