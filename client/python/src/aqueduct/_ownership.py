"""What a member of a group owns, how far it is, and what it has to do about it.

Plain bookkeeping without I/O or clock of its own: the consumer tells it what arrived, what the
caller has taken and done, and the time; it answers which commits are due and which partitions can
be given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aqueduct.messages import Record


@dataclass(slots=True)
class Owned:
    """One partition under one assignment. Offsets are "one past", as positions are."""

    partition: int
    epoch: int
    returned: int
    """What the caller was given."""
    done: int
    """What the caller is through with, as far as is known."""
    requested: int
    """Up to where a commit was sent."""
    committed: int
    """Up to where a commit was confirmed."""
    release_by: float | None = None
    """When it must be given back, if it was asked back."""
    told: bool = True
    """The caller has been told that it was asked back."""


@dataclass(slots=True, frozen=True)
class Position:
    """A commit to be sent."""

    partition: int
    epoch: int
    offset: int


class Ownership:
    """The partitions of one member."""

    def __init__(self, *, auto_commit: bool) -> None:
        self._auto = auto_commit
        self._owned: dict[int, Owned] = {}
        self._current: Record | None = None

    def partitions(self) -> list[int]:
        """What the member has now."""
        return sorted(self._owned)

    def epoch(self, partition: int) -> int | None:
        """The assignment under which a partition is owned."""
        owned = self._owned.get(partition)
        return None if owned is None else owned.epoch

    def assign(self, partition: int, epoch: int, position: int) -> None:
        """The member has got this partition."""
        self._owned[partition] = Owned(partition, epoch, position, position, position, position)

    def take_away(self, partitions: Iterable[int]) -> list[int]:
        """The member has these no more; returns those it had."""
        return [number for number in partitions if self._owned.pop(number, None) is not None]

    def ask_back(self, partitions: Iterable[int], by: float, *, told: bool) -> list[int]:
        """These are to be given back by then; returns those the member has."""
        asked = []
        for number in partitions:
            owned = self._owned.get(number)
            if owned is not None:
                owned.release_by, owned.told = by, told
                asked.append(number)
        return asked

    def told(self, partitions: Iterable[int]) -> None:
        """The caller knows that these were asked back, and has done what it wanted to."""
        for number in partitions:
            owned = self._owned.get(number)
            if owned is not None:
                owned.told = True

    def hand_out(self, record: Record) -> bool:
        """The caller gets this record, unless its partition is on its way or gone."""
        owned = self._matching(record.partition, record.epoch)
        if owned is None or owned.release_by is not None:
            return False
        owned.returned = record.offset + 1
        self._current = record
        return True

    def finish(self) -> None:
        """The caller is through with the record it was given last."""
        record, self._current = self._current, None
        if record is None:
            return
        owned = self._matching(record.partition, record.epoch)
        if owned is not None:
            owned.done = max(owned.done, record.offset + 1)

    def returned(self) -> list[Position]:
        """Everything the caller was given and has not committed."""
        return [
            Position(owned.partition, owned.epoch, owned.returned)
            for owned in self._owned.values()
            if owned.returned > owned.committed
        ]

    def due(self) -> list[Position]:
        """Everything that is done and for which no commit was sent; now it counts as sent."""
        due = [owned for owned in self._owned.values() if owned.done > owned.requested]
        for owned in due:
            owned.requested = owned.done
        return [Position(owned.partition, owned.epoch, owned.requested) for owned in due]

    def has_due(self) -> bool:
        """Something is done for which no commit was sent."""
        return any(owned.done > owned.requested for owned in self._owned.values())

    def committed(self, position: Position) -> None:
        """A commit was confirmed (or the group is further already)."""
        owned = self._matching(position.partition, position.epoch)
        if owned is not None:
            owned.committed = max(owned.committed, position.offset)
            owned.requested = max(owned.requested, owned.committed)

    def not_committed(self, position: Position) -> None:
        """A commit did not succeed, but may later."""
        owned = self._matching(position.partition, position.epoch)
        if owned is not None:
            owned.requested = owned.committed

    def leaving(self) -> bool:
        """Some partition is to be given back."""
        return any(owned.release_by is not None for owned in self._owned.values())

    def release(self, now: float) -> Sequence[int]:
        """Partitions that can be given back: everything is committed, or there is no more time.
        They are not owned any more."""
        ready = [owned.partition for owned in self._owned.values() if self._ready(owned, now)]
        for number in ready:
            del self._owned[number]
        return ready

    def _ready(self, owned: Owned, now: float) -> bool:
        if owned.release_by is None:
            return False
        if now >= owned.release_by:
            return True
        if not owned.told or owned.committed < owned.done:
            return False
        if not self._auto:
            return owned.committed >= owned.returned
        current = self._current
        return current is None or current.partition != owned.partition

    def _matching(self, partition: int, epoch: int) -> Owned | None:
        owned = self._owned.get(partition)
        return owned if owned is not None and owned.epoch == epoch else None
