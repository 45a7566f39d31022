"""One partition of usage at work: loaded where its pointer says, folded, and cut consistently for a checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from schemas.batch import Lines, Ms
from schemas.prices import Entry
from schemas.quarantine import Quarantined
from stream.assembly import Assembly
from stream.blocks import Found, State, StateTopic, find
from stream.checkpoint import EMPTY, Buffer, Pointer
from stream.pipeline import Output
from stream.records import Fetched, to_lines


class Fenced(Exception):
    """The group has moved on: this member may not commit for that partition any more."""


class Away(Exception):
    """The broker does not answer now; the same question may be asked again."""


class StateLost(Exception):
    """A partition cannot go on where it was; says why and what to do."""


class Group(Protocol):
    """A worker's membership in its consumer group. What asks the broker raises Away where it does not answer."""

    @property
    def generation(self) -> int:
        """The generation whose messages are delivered now."""
        ...

    def owned(self) -> frozenset[int]:
        """The partitions of this generation; empty while the group rebalances."""
        ...

    def read_to_end(self, partition: int) -> tuple[Ms, int] | None:
        """(when, offset): a fetch begun then found the end of the partition at that offset. None: not yet."""
        ...

    def end(self, partition: int) -> int | None:
        """The high watermark as last heard; None before the first fetch."""
        ...

    async def committed(self, partition: int) -> tuple[int, str] | None:
        """(next offset, metadata) of the group, None where there is no commit."""
        ...

    async def commit(self, partition: int, offset: int, metadata: str, generation: int) -> None:
        """Raises Fenced unless this very generation still holds the partition."""
        ...

    async def seek(self, partition: int, offset: int) -> None:
        """Read on from `offset`."""
        ...


class Topics(StateTopic, Protocol):
    """What a worker writes, and reads back of its state. What asks the broker raises Away where it does not answer."""

    @property
    def broker_ahead(self) -> Ms | None:
        """How far the broker's clock is ahead of ours; None until it told us an append time."""
        ...

    async def send(self, topic: str, key: bytes | None, value: bytes, partition: int) -> asyncio.Future[Any]:
        """Waits for room in the buffer; the future is done when all in-sync replicas have the record."""
        ...

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First and next offset of a topic's partition."""
        ...

    async def delete_state(self, partition: int, before: int) -> None:
        """Delete the records of the partition's state before an offset."""
        ...


@dataclass(frozen=True, slots=True)
class Names:
    """The topics of one deployment."""

    usage: str
    signals: str
    state: str
    quarantine: str


class SharedBuffer(Buffer):
    """One for all partitions of a worker, which are packed and unpacked in it one at a time: by whoever holds `lock`."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()


class Partition:
    """One partition at work. `next` is the offset of the first call that is not folded yet, `committed` the group's.

    It began here at offset `began`. `waiting` are the acknowledgements of all that it said; whoever folds or cuts holds
    `lock`, so that a cut never falls between a fold and what the fold had to say.
    """

    def __init__(self, number: int, assembly: Assembly, generation: int, next: int, pointer: str) -> None:
        self.number = number
        self.assembly = assembly
        self.generation = generation
        self.began = self.next = self.committed = next
        self.pointer = pointer
        self.behind_since: float | None = None
        self.told_at = 0.0
        self.lock = asyncio.Lock()
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.state = State()
        self.checkpointed_at = self.folded_at = time.monotonic()
        self.changes = self.kept_changes = 0

    @property
    def changed(self) -> bool:
        """Whether it holds anything that its committed checkpoint does not."""
        return self.changes > self.kept_changes

    @property
    def unknown_names(self) -> Counter[str]:
        """Fields that were none of ours, and how often."""
        return self.assembly.decoder.unknown_names

    def fold(self, fetched: Sequence[Fetched]) -> tuple[Output, list[Quarantined], int]:
        """What came of the calls, the refused lines, and how many rows were passed over as folded before."""
        lines = to_lines(f"partition {self.number}", fetched)
        again = 0
        if fetched[0].begin < self.next:
            again = int((lines.position < self.next).sum())
            lines = Lines(lines.buffer, *(getattr(lines, f.name)[again:] for f in fields(lines)[1:]))
        batch, refused = self.assembly.decoder.decode(lines, partition=self.number)
        output = self.assembly.pipeline.feed(batch)
        self.next = max(self.next, fetched[-1].end)
        self.folded_at = time.monotonic()
        self.changes += 1
        return output, [replace(row, line=0) for row in refused], again

    def acknowledged(self) -> None:
        """Let go of what the broker has. Raises what a send raised."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()


async def load(
    number: int,
    generation: int,
    kept: Partition | None,
    group: Group,
    topics: Topics,
    names: Names,
    prices: Sequence[Entry],
    keys: int,
    buffer: SharedBuffer,
) -> Partition:
    """The partition at its pointer; `kept` itself where the pointer is still the one that it wrote or was loaded from.

    It keeps `keys` keys. Raises Fenced, Away, StateLost, BadCheckpoint.
    """
    found = await group.committed(number)
    if kept is not None and found is not None and found[1] == kept.pointer:
        kept.generation = generation
        return kept
    assembly = Assembly(prices, partition=number, keys=keys)
    if found is None:
        found = await _begin(number, generation, group, topics, names)
    next, pointer = found
    _, end = await topics.bounds(names.usage, number)
    if end < next:
        raise StateLost(f"{names.usage}-{number} ends at offset {end}, before its checkpoint at {next}: it was made anew")
    partition = Partition(number, assembly, generation, next, pointer)
    if pointer != EMPTY:
        checkpoint = await find(topics, number, Pointer.read(pointer))
        async with buffer.lock:
            partition.state = await asyncio.to_thread(_restore, assembly, checkpoint, buffer)
    return partition


def _restore(assembly: Assembly, found: Found, buffer: Buffer) -> State:
    """Raises BadCheckpoint."""
    checkpoint, state = found.fill(buffer)
    assembly.restore(checkpoint.state)
    return state


async def _begin(number: int, generation: int, group: Group, topics: Topics, names: Names) -> tuple[int, str]:
    """A partition's very first start: from the beginning of the log, said in the group before anything is folded."""
    first, end = await topics.bounds(names.state, number)
    if end > first:
        raise StateLost(
            f"{names.state}-{number} holds checkpoints, but the group has no commit: its offsets expired or were deleted;"
            " see docs/runbooks/state_lost.md"
        )
    start, _ = await topics.bounds(names.usage, number)
    await group.commit(number, start, EMPTY, generation)
    return start, EMPTY
