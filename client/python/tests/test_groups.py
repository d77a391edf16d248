"""Groups from outside, and members that pull."""

from __future__ import annotations

from datetime import timedelta

import pytest

import aqueduct
from aqueduct import START, Client, Commit, GroupState, Message, Offset, StartPolicy


async def fill(client: Client, topic: str, count: int, partitions: int = 1) -> None:
    await client.topics.create(topic, partitions=partitions)
    await client.publish_many(
        topic, [Message(f"{n}", partition=n % partitions) for n in range(count)]
    )


async def test_a_group_lives_and_dies(client: Client, topic: str) -> None:
    await fill(client, topic, 10, partitions=2)
    created = await client.groups.create(
        topic, "g", start=StartPolicy.LATEST, session_timeout=5, labels={"team": "orders"}
    )
    assert (created.topic, created.name, created.members) == (topic, "g", 0)
    assert (created.start, created.state) == (StartPolicy.LATEST, GroupState.EMPTY)
    assert created.session_timeout == timedelta(seconds=5)
    assert await client.groups.get(topic, "g") == created
    with pytest.raises(aqueduct.GroupExists):
        await client.groups.create(topic, "g")
    changed = await client.groups.update(topic, "g", overrun=StartPolicy.ERROR)
    assert (changed.overrun, changed.labels) == (StartPolicy.ERROR, {"team": "orders"})
    with pytest.raises(aqueduct.EtagMismatch):
        await client.groups.update(topic, "g", labels={}, etag=created.etag)
    assert [group.name async for group in client.groups.list(topic)] == ["g"]
    assert (topic, "g") in [(group.topic, group.name) async for group in client.groups.list()]
    await client.groups.delete(topic, "g")
    with pytest.raises(aqueduct.GroupNotFound):
        await client.groups.get(topic, "g")
    with pytest.raises(aqueduct.InvalidArgument):
        await client.groups.create(topic, "no spaces please")
    with pytest.raises(aqueduct.TopicNotFound):
        await client.groups.create(topic + "x", "g")


async def test_lag_and_seeks(client: Client, topic: str) -> None:
    await fill(client, topic, 10, partitions=2)
    await client.groups.create(topic, "g")
    lag = await client.groups.lag(topic, "g")
    assert (lag.messages, [p.messages for p in lag.partitions]) == (10, [5, 5])
    assert lag.seconds >= 0
    preview = await client.groups.seek(topic, "g", to=aqueduct.END, validate_only=True)
    assert [p.new_position for p in preview] == [5, 5]
    assert (await client.groups.lag(topic, "g")).messages == 10
    await client.groups.seek(topic, "g", to=Offset(2), partitions=[1])
    await client.groups.seek(topic, "g", shift=1, partitions=[1])
    lag = await client.groups.lag(topic, "g")
    assert (lag.messages, lag.partitions[1].position) == (7, 3)
    await client.groups.create(topic, "h")
    await client.groups.seek(topic, "h", from_group="g")
    assert (await client.groups.lag(topic, "h")).partitions[1].position == 3
    await client.groups.seek(topic, "g", to=START)
    assert (await client.groups.lag(topic, "g")).messages == 10
    with pytest.raises(aqueduct.InvalidArgument):
        await client.groups.seek(topic, "g")
    with pytest.raises(aqueduct.InvalidArgument):
        await client.groups.seek(topic, "g", to=START, shift=1)


async def test_pause_and_resume(client: Client, topic: str) -> None:
    await fill(client, topic, 1)
    await client.groups.create(topic, "g")
    paused = await client.groups.pause(topic, "g", timedelta(hours=1))
    assert paused.state is GroupState.PAUSED and paused.paused_until is not None
    assert (await client.pull(topic, "g", member_id="m")).records == []
    assert (await client.groups.resume(topic, "g")).state is not GroupState.PAUSED
    assert len((await client.pull(topic, "g", member_id="m", wait=10)).records) == 1


async def test_positions_of_a_group_without_members(client: Client, topic: str) -> None:
    await fill(client, topic, 10)
    await client.groups.create(topic, "g")
    (result,) = await client.commit(topic, "g", [Commit(0, 4)])
    assert (result.position, result.error) == (4, None)
    (result,) = await client.commit(topic, "g", [Commit(0, 3)])
    assert isinstance(result.error, aqueduct.CommitBackwards)
    (result,) = await client.commit(topic, "g", [Commit(0, 99)])
    assert result.error is not None
    assert (await client.groups.lag(topic, "g")).messages == 6


async def test_a_lost_answer_is_given_again(client: Client, topic: str) -> None:
    await fill(client, topic, 6)
    first = await client.pull(topic, "g", member_id="m", max_messages=2, wait=10, received=0)
    await client.pull(topic, "g", member_id="m", max_messages=2, received=first.answer)
    again = await client.pull(topic, "g", member_id="m", received=first.answer)
    assert [r.text for r in again.records] == ["2", "3", "4", "5"]
    assert again.answer != first.answer
    last = await client.pull(topic, "g", member_id="m", received=again.answer)
    assert last.records == []
    await client.leave(topic, "g", "m")


async def test_pulling(client: Client, topic: str) -> None:
    await fill(client, topic, 10)
    first = await client.pull(topic, "g", max_messages=4, wait=10, client_id="test")
    assert [r.text for r in first.records] == ["0", "1", "2", "3"]
    (member,) = await client.groups.members(topic, "g")
    assert (member.member_id, member.pulls) == (first.member_id, True)
    assert (list(member.partitions), member.client_id) == ([0], "test")
    with pytest.raises(aqueduct.GroupNotEmpty):
        await client.groups.delete(topic, "g")
    second = await client.pull(
        topic, "g", member_id=first.member_id, wait=10, commits=[first.records[2]]
    )
    assert [(c.position, c.error) for c in second.commits] == [(3, None)]
    assert [r.text for r in second.records] == ["4", "5", "6", "7", "8", "9"]
    (result,) = await client.commit(topic, "g", [second.records[0]], member_id=first.member_id)
    assert (result.position, result.error) == (5, None)
    await client.leave(topic, "g", first.member_id)
    with pytest.raises(aqueduct.MemberUnknown):
        await client.leave(topic, "g", first.member_id)
    again = await client.pull(topic, "g", wait=10)
    assert [r.text for r in again.records] == ["5", "6", "7", "8", "9"]
    (result,) = await client.commit(
        topic, "g", [Commit(0, 10, first.assignments[0].epoch)], member_id=again.member_id
    )
    assert isinstance(result.error, aqueduct.CommitFenced)
    await client.leave(topic, "g", again.member_id)
    with pytest.raises(aqueduct.GroupNotFound):
        await client.pull(topic, "other", must_exist=True)
