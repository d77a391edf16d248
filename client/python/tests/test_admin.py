"""Topics, and what the broker says of itself."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

import aqueduct
from aqueduct import Client, Offset, Time, TimestampKind


async def test_a_topic_lives_and_dies(client: Client, topic: str) -> None:
    created = await client.topics.create(
        topic,
        partitions=3,
        retention=timedelta(hours=1),
        max_message_bytes=1000,
        timestamp_kind=TimestampKind.APPEND,
        dedup_window=0,
        labels={"team": "orders"},
    )
    assert (created.name, created.partitions) == (topic, 3)
    assert created.retention == timedelta(hours=1)
    assert created.timestamp_kind is TimestampKind.APPEND
    assert created.dedup_window == timedelta()
    assert abs(created.create_time - datetime.now(timezone.utc)) < timedelta(hours=1)
    assert await client.topics.get(topic) == created

    changed = await client.topics.update(topic, partitions=5, retention=0, etag=created.etag)
    assert (changed.partitions, changed.retention) == (5, timedelta())
    assert (changed.labels, changed.max_message_bytes) == ({"team": "orders"}, 1000)
    with pytest.raises(aqueduct.EtagMismatch):
        await client.topics.update(topic, labels={}, etag=created.etag)
    assert (await client.topics.update(topic, labels={})).labels == {}
    assert changed.retain is aqueduct.Retain.TIME
    done = await client.topics.update(topic, retain=aqueduct.Retain.UNTIL_DONE)
    assert done.retain is aqueduct.Retain.UNTIL_DONE

    assert [found.name async for found in client.topics.list(prefix=topic)] == [topic]
    await client.topics.delete(topic, validate_only=True)
    assert len(await client.topics.partitions(topic)) == 5
    await client.topics.delete(topic)
    assert [found async for found in client.topics.list(prefix=topic)] == []


async def test_a_preview_changes_nothing(client: Client, topic: str) -> None:
    would_be = await client.topics.create(topic, partitions=4, validate_only=True)
    assert would_be.partitions == 4
    with pytest.raises(aqueduct.TopicNotFound):
        await client.topics.get(topic)


async def test_trimming(client: Client, topic: str) -> None:
    await client.topics.create(topic, partitions=2)
    for number in range(10):
        await client.publish(topic, f"{number}", partition=number % 2)
    trimmed = await client.topics.trim(topic, before=Offset(3), partition=1)
    assert [(p.partition, p.log_start_offset) for p in trimmed] == [(1, 3)]
    kept = [record.text async for record in client.read(topic)]
    assert sorted(kept) == ["0", "2", "4", "6", "7", "8", "9"]
    await client.topics.trim(topic, before=Time(datetime.now(timezone.utc) + timedelta(days=1)))
    assert [record async for record in client.read(topic)] == []
    offsets = await client.offsets(topic, aqueduct.START)
    assert [(o.log_start_offset, o.high_watermark, o.offset) for o in offsets] == [(5, 5, 5)] * 2


async def test_refusals_have_types_and_facts(client: Client, topic: str) -> None:
    await client.topics.create(topic)
    with pytest.raises(aqueduct.TopicExists) as exists:
        await client.topics.create(topic)
    assert (exists.value.reason, exists.value.code) == ("TOPIC_EXISTS", "ALREADY_EXISTS")
    assert isinstance(exists.value, aqueduct.AlreadyExists)
    assert not exists.value.is_unknown
    with pytest.raises(aqueduct.TopicNotFound) as missing:
        await client.topics.get(topic + "x")
    assert missing.value.did_you_mean == topic
    with pytest.raises(aqueduct.InvalidArgument) as bad:
        await client.topics.create("no spaces please")
    assert bad.value.field is not None
    with pytest.raises(aqueduct.InvalidArgument):
        await client.topics.update(topic)
    with pytest.raises(aqueduct.InvalidArgument):
        await client.topics.create(topic, partitions=-1)
    with pytest.raises(aqueduct.InvalidArgument):
        await client.topics.create(topic, retention=-5)
    with pytest.raises(aqueduct.PartitionNotFound):
        await client.get_message(topic, 7, 0)
    with pytest.raises(aqueduct.AqueductError):
        await client.get_message(topic, 0, 0)


async def test_figures_of_the_broker(client: Client) -> None:
    stats = await client.stats()
    assert stats.version and stats.connections >= 1


async def test_nobody_there() -> None:
    with pytest.raises(aqueduct.Unavailable):
        await Client.connect("127.0.0.1:1", connect_timeout=0.2)
    with pytest.raises(aqueduct.InvalidArgument):
        Client("not an address")
    async with Client("127.0.0.1:1", connect_timeout=0.2) as client:
        with pytest.raises(aqueduct.Unavailable) as nobody:
            await client.publish("t", "a")
        assert not nobody.value.is_unknown, "nothing was sent"
    with pytest.raises(aqueduct.Closed):
        await client.topics.get("t")
