"""Publishing: single messages, and the producer with brokers that go away."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from conftest import Broker, soon

import aqueduct
from aqueduct import Ack, Client, Message


async def test_a_message_comes_back_as_it_was(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    headers = [("a", b"1"), ("a", b"\xff"), ("b", b"")]
    ack = await client.publish(topic, b"\x00\xff", key="k", headers=headers)
    assert ack == Ack(0, 0)
    assert await client.publish(topic, None, key=b"") == Ack(0, 1)
    first, second = [record async for record in client.read(topic)]
    assert (first.value, first.key, first.headers) == (b"\x00\xff", b"k", tuple(headers))
    assert (first.header("a"), first.header("c")) == (b"1", None)
    assert (second.value, second.key, second.text) == (None, b"", "")
    assert await client.get_message(topic, 0, 0) == first


async def test_dedup_and_expected_offset(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    first = await client.publish(topic, "a", dedup_id="id")
    again = await client.publish(topic, "a", dedup_id="id")
    assert (again.offset, again.duplicate) == (first.offset, True)
    with pytest.raises(aqueduct.OffsetMismatch) as mismatch:
        await client.publish(topic, "b", expected_offset=5)
    assert (mismatch.value.expected, mismatch.value.actual) == (5, 1)
    assert (await client.publish(topic, "b", expected_offset=1)).offset == 1


async def test_each_message_of_a_request_has_its_result(client: Client, topic: str) -> None:
    await client.topics.create(topic, max_message_bytes=100)
    messages = [Message("a"), Message("x" * 101), Message("b", partition=9), Message("c")]
    results = await client.publish_many(topic, messages)
    assert isinstance(results[1], aqueduct.MessageTooLarge) and results[1].limit == 100
    assert isinstance(results[2], aqueduct.PartitionNotFound)
    assert [results[0], results[3]] == [Ack(0, 0), Ack(0, 1)]
    with pytest.raises(aqueduct.TopicNotFound):
        await client.publish(topic + "x", "a")


async def test_a_producer_keeps_the_order(client: Client, topic: str) -> None:
    await client.topics.create(topic, partitions=3)
    async with client.producer(topic) as producer:
        deliveries = [await producer.send(f"{n}", key=f"{n % 7}") for n in range(5_000)]
        await producer.flush()
        assert all(delivery.done() for delivery in deliveries)
        acks = await asyncio.gather(*deliveries)
    assert not any(ack.duplicate for ack in acks)
    places = {(ack.partition, ack.offset): n for n, ack in enumerate(acks)}
    read: dict[int, list[int]] = {0: [], 1: [], 2: []}
    async for record in client.read(topic):
        number = int(record.text)
        assert places[record.partition, record.offset] == number
        read[record.partition].append(number)
    assert sum(map(len, read.values())) == 5_000
    assert all(numbers == sorted(numbers) for numbers in read.values())


async def test_a_lone_message_needs_no_flush(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    async with client.producer(topic) as producer:
        assert await soon(_send(producer, "a")) == Ack(0, 0)
        assert await soon(_send(producer, "b")) == Ack(0, 1)


async def _send(producer: aqueduct.Producer, value: str) -> Ack:
    return await (await producer.send(value))


async def test_a_producer_holds_no_more_than_it_may(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    async with client.producer(topic, max_in_flight_bytes=10_000) as producer:
        for _ in range(200):
            await soon(producer.send("x" * 1_000))
            assert producer._bytes <= 10_000
        await soon(producer.send("x" * 20_000))
    assert (await client.offsets(topic))[0].high_watermark == 201


async def test_a_refused_message_fails_alone_and_is_not_forgotten(
    client: Client, topic: str
) -> None:
    await client.topics.create(topic, max_message_bytes=100)
    async with client.producer(topic) as producer:
        await producer.send("a")
        await producer.send("x" * 1_000)
        await producer.send("b")
        with pytest.raises(aqueduct.MessageTooLarge):
            await producer.flush()
        await producer.flush()
        refused = await producer.send("x" * 1_000)
        with pytest.raises(aqueduct.MessageTooLarge):
            await refused
        await producer.flush()
    with pytest.raises(aqueduct.MessageTooLarge):
        async with client.producer(topic) as producer:
            await producer.send("x" * 1_000)
    with pytest.raises(ZeroDivisionError):
        async with client.producer(topic) as producer:
            await producer.send("x" * 1_000)
            raise ZeroDivisionError
    assert [record.text async for record in client.read(topic)] == ["a", "b"]


async def test_a_producer_without_a_topic(client: Client, topic: str) -> None:
    with pytest.raises(aqueduct.TopicNotFound):
        async with client.producer(topic) as producer:
            await soon(_send(producer, "a"))
    # It goes on by itself when the topic is there.
    with pytest.raises(aqueduct.TopicNotFound):
        async with client.producer(topic) as producer:
            lost = await producer.send("a")
            with pytest.raises(aqueduct.TopicNotFound):
                await soon(lost)
            await client.topics.create(topic)
            assert await soon(_send(producer, "b")) == Ack(0, 0)
            await client.topics.delete(topic)
            await producer.send("c")


async def test_a_producer_is_used_while_it_is_open(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    producer = client.producer(topic)
    with pytest.raises(aqueduct.Closed):
        await producer.send("a")
    async with producer:
        await producer.send("a")
    with pytest.raises(aqueduct.Closed):
        await producer.send("b")
    with pytest.raises(aqueduct.Closed):
        await producer.__aenter__()
    assert (await client.offsets(topic))[0].high_watermark == 1


async def test_who_gives_up_waiting_does_not_cancel_the_message(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    async with client.producer(topic) as producer:
        delivery = await producer.send("a")
        waiting = asyncio.ensure_future(_wait(delivery))
        await asyncio.sleep(0)
        waiting.cancel()
        assert await soon(delivery) == Ack(0, 0)


async def _wait(delivery: aqueduct.Delivery) -> Ack:
    return await delivery


async def test_nothing_is_lost_or_doubled_when_the_broker_is_killed(own_broker: Broker) -> None:
    """With ids: the broker is killed with -9 while messages are in flight, four times."""
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t", partitions=3)
        count = 20_000
        async with client.producer("t") as producer:
            deliveries = []
            for number in range(count):
                deliveries.append(await producer.send(f"{number}", key=f"{number % 11}"))
                if number % 4_000 == 3_999 and number < count - 1:
                    await asyncio.to_thread(own_broker.restart)
            acks = await soon(asyncio.gather(*deliveries))
        places = {(ack.partition, ack.offset): n for n, ack in enumerate(acks)}
        assert len(places) == count
        seen: list[int] = []
        async for record in client.read("t"):
            assert places[record.partition, record.offset] == int(record.text)
            seen.append(int(record.text))
        assert sorted(seen) == list(range(count)), "each once"
        for partition in range(3):
            mine = [n for (where, _), n in sorted(places.items()) if where == partition]
            assert mine == sorted(mine)


async def test_without_ids_what_had_no_answer_is_unknown(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t", dedup_window=0)
        async with client.producer("t") as producer:
            assert await soon(_send(producer, "before")) == Ack(0, 0)
            own_broker.send(signal.SIGSTOP)
            unknown = await producer.send("unknown")
            while not unknown.sent:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(own_broker.restart)
            with pytest.raises(aqueduct.OutcomeUnknown) as error:
                await soon(unknown)
            assert error.value.is_unknown
            ack = await soon(_send(producer, "after"))
        texts = [record.text async for record in client.read("t")]
        assert texts[ack.offset] == "after" and texts.count("before") == 1


async def test_a_message_is_not_waited_for_without_end(own_broker: Broker) -> None:
    async with await Client.connect(own_broker.address) as client:
        await client.topics.create("t")
        async with client.producer("t", delivery_timeout=1.0) as producer:
            own_broker.send(signal.SIGSTOP)
            sent = await producer.send("a")
            while not sent.sent and not sent.done():
                await asyncio.sleep(0.01)
            with pytest.raises(aqueduct.AqueductError) as error:
                await soon(sent)
            assert error.value.is_unknown == sent.sent
            own_broker.kill()
            unsent = await producer.send("b")
            with pytest.raises(aqueduct.AqueductError) as error:
                await soon(unsent)
            assert error.value.is_unknown == unsent.sent


async def test_a_broker_without_room_says_so(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "data", "--disk-limit", "64MiB")
    try:
        async with await Client.connect(broker.address) as client:
            await client.topics.create("t")
            with pytest.raises(aqueduct.DiskFull) as full:
                while True:
                    await client.publish("t", b"x" * 1_000_000)
            assert full.value.retry_after is not None and not full.value.is_unknown
    finally:
        broker.kill()
