"""Checkpoints in blocks over a log in memory: whatever crashes, lingers or is deleted, what was committed last comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.snapshot import BadCheckpoint, Snapshot
from stream import blocks
from stream.blocks import Index, State, Written, find
from stream.checkpoint import IN_BLOCKS, Buffer, Checkpoint, Pointer, chunk_key, chunks, compress, decompress, pack, read
from stream.partition import Fenced
from tests.memory_log import Crashed, Log, Member
from tests.test_worker import new_log, play, said
from tests.test_worker import state as committed_state

BLOCK, RECORD = 64, 400
Action: TypeAlias = tuple[str, int]


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """Blocks and records so small that a few rows fill several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", BLOCK)
        patch.setattr(blocks, "CHUNK_BYTES", RECORD)
        yield


def noise(seed: int, rows: int) -> NDArray[np.int64]:
    """Rows of 16 bytes that do not compress."""
    return np.random.default_rng(seed).integers(0, 2**62, (rows, 2))


class Holder:
    """A process that holds the partition for a generation: it changes its arrays and checkpoints as a worker does.

    `asked` are the deletions that it may ask for whenever it wakes: each was right when its commit was done.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.number = 0
        self.asked: list[int] = []

    async def take(self) -> None:
        """Another generation begins, with this process as the partition's holder."""
        self.member, self.state = Member(self.log), State()
        self.arrays: Snapshot = {"grows": noise(0, 20), "cold": noise(2, 60), "replaced": noise(1, 9)}
        if 0 in self.log.commits:
            found = await find(self.member, 0, Pointer.read(self.log.commits[0][1]))
            checkpoint, self.state = found.fill(Buffer())
            self.arrays = {name: column.copy() for name, column in checkpoint.state.items()}

    def fold(self, seed: int) -> None:
        """A row changes; now and then rows come, an array becomes a shorter or longer one, one comes or goes."""
        rng = np.random.default_rng(seed)
        self.arrays["grows"][rng.integers(len(self.arrays["grows"]))] += 1
        if seed % 5 == 0:
            self.arrays["grows"] = np.concatenate([self.arrays["grows"], noise(seed, 5)])
        if seed % 4 == 0:
            self.arrays["replaced"] = noise(seed, seed % 12)
        if seed % 7 == 0 and self.arrays.pop("comes and goes", None) is None:
            self.arrays["comes and goes"] = noise(seed, 8).astype(np.int32)

    async def write(self, cuts: dict[str, Snapshot]) -> Written:
        """`cuts` gets what the pointer will stand for."""
        cut = {name: column.copy() for name, column in self.arrays.items()}
        self.number += 1
        packed = pack(Checkpoint(cut, "c", {"next": self.number}), Buffer())
        written = await self.state.write(self.state.draft(packed), self.member.generation, self.number, self._send)
        cuts[written.pointer.to_metadata()] = cut
        return written

    async def checkpoint(self, cuts: dict[str, Snapshot]) -> Written:
        written = await self.write(cuts)
        await self.member.commit(0, self.number, written.pointer.to_metadata(), self.member.generation)
        needed = self.state.committed(written)
        if needed is not None:
            self.asked.append(needed)
        return written

    async def _send(self, key: bytes, value: bytes) -> asyncio.Future[Any]:
        return await self.member.send("state", key, value, 0)


class BelievesWhatItWrote(Holder):
    """The control: it compares with what it wrote last, not with what is committed."""

    wrote: Written | None = None

    async def take(self) -> None:
        await super().take()
        if self.wrote is not None:
            self.state._kept = self.wrote.kept

    async def write(self, cuts: dict[str, Snapshot]) -> Written:
        self.wrote = await super().write(cuts)
        return self.wrote


async def playing(actions: list[Action], kind: type[Holder]) -> None:
    """Play them; after each, what the last commit and the one before it point at is there, to the bit."""
    log, cuts = Log(usage=0), dict[str, Snapshot]()
    holder, zombies, pointers = kind(log), list[Holder](), list[str]()
    await holder.take()
    for name, n in actions:
        if name == "rounds":
            for seed in range(n, n + 1 + n % 30):
                holder.fold(seed)
                await holder.checkpoint(cuts)
                pointers.append(log.commits[0][1])
                if seed % 3:
                    await holder.member.delete_state(0, holder.asked[-1] if holder.asked else 0)
        elif name == "written, not committed":
            holder.fold(n)
            await holder.write(cuts)
        elif name == "killed":
            holder.fold(n)
            holder.member._crash_at = len(holder.member.operations) + n % 12
            with suppress(Crashed):
                await holder.checkpoint(cuts)
            holder = kind(log)
            await holder.take()
        elif name == "taken over":
            zombies.append(holder)
            holder = kind(log)
            await holder.take()
        elif name == "taken back" and zombies:
            other = zombies.pop(n % len(zombies))
            zombies.append(holder)
            holder = other
            await holder.take()
        elif name == "zombie writes" and zombies:
            zombie = zombies[n % len(zombies)]
            zombie.fold(n)
            both = await asyncio.gather(zombie.checkpoint(cuts), holder.checkpoint(cuts), return_exceptions=True)
            assert isinstance(both[0], Fenced)
            assert isinstance(both[1], Written)
        elif name == "deleted":
            asked = [(one, before) for one in [holder, *zombies] for before in one.asked]
            if asked:
                one, before = asked[n % len(asked)]
                await one.member.delete_state(0, before - n % 3)
        pointer = log.commits.get(0, (0, ""))[1]
        if pointer and pointer not in pointers:
            pointers.append(pointer)
        for metadata in pointers[-2:]:
            checkpoint, _ = (await find(holder.member, 0, Pointer.read(metadata))).fill(Buffer())
            assert list(checkpoint.state) == list(cuts[metadata])
            for array, column in cuts[metadata].items():
                np.testing.assert_array_equal(checkpoint.state[array], column, strict=True)


HAPPENINGS = ("rounds", "deleted", "written, not committed", "killed", "taken over", "taken back", "zombie writes")
histories = st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 2**20)), max_size=20)
LATE: list[Action] = [
    ("rounds", 1),
    ("taken over", 0),
    ("zombie writes", 1),
    ("rounds", 29),
    ("rounds", 59),
    ("deleted", 54),
    ("deleted", 57),
    ("taken back", 0),
    ("rounds", 1),
]
"""A zombie wrote and was refused; its successor has moved everything since; the zombie gets the partition back."""


@settings(max_examples=150, deadline=None)
@given(histories)
@example(LATE)
def test_whatever_happens_the_last_two_committed_cuts_come_back_to_the_bit(history: list[Action]) -> None:
    asyncio.run(playing(history, Holder))


def test_comparing_with_what_was_written_instead_of_committed_loses_blocks() -> None:
    with pytest.raises(BadCheckpoint, match=r"record \d+ of the state is gone"):
        asyncio.run(playing(LATE, BelievesWhatItWrote))

    @settings(max_examples=400, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(histories)
    def any_history(history: list[Action]) -> None:
        asyncio.run(playing(history, BelievesWhatItWrote))

    with pytest.raises(BadCheckpoint):
        any_history()


def test_a_zombies_late_deletion_takes_nothing_that_its_successor_needs() -> None:
    async def story() -> None:
        log, cuts = Log(usage=0), dict[str, Snapshot]()
        zombie, successor = Holder(log), Holder(log)
        await zombie.take()
        for seed in range(40):
            zombie.fold(seed)
            await zombie.checkpoint(cuts)
        await successor.take()
        for seed in range(20):
            successor.fold(seed)
            await successor.checkpoint(cuts)
            for before in zombie.asked:
                await zombie.member.delete_state(0, before)
            (await find(successor.member, 0, Pointer.read(log.commits[0][1]))).fill(Buffer())
        assert log.first["state", 0] == zombie.asked[-1] > 0

    asyncio.run(story())


async def saved(arrays: Snapshot, folds: list[Callable[[Snapshot], None]]) -> list[Written]:
    """A checkpoint of the arrays, and one after each fold."""
    holder = Holder(Log(usage=0))
    await holder.take()
    holder.arrays = arrays
    written = [await holder.checkpoint({})]
    for fold in folds:
        fold(holder.arrays)
        written.append(await holder.checkpoint({}))
    return written


def test_only_blocks_that_changed_are_written_also_when_another_array_grows() -> None:
    def one_row(arrays: Snapshot) -> None:
        arrays["rows"][17] += 1

    def grows(arrays: Snapshot) -> None:
        arrays["before"] = np.concatenate([arrays["before"], noise(9, 1)])

    def nothing(arrays: Snapshot) -> None:
        pass

    arrays = {"before": noise(1, 5), "rows": noise(2, 40), "after": noise(3, 40)}
    written = asyncio.run(saved(arrays, [one_row, grows, nothing]))
    rows = BLOCK // 16
    assert [w.blocks["changed"] for w in written] == [-(-5 // rows) + 2 * (40 // rows), 1, 1, 0]
    assert [w.blocks["kept"] for w in written[1:]] == [written[0].blocks["changed"] - 1] * 2 + [written[0].blocks["changed"]]
    assert all(w.bytes == w.pointer.length for w in written[3:])


def test_a_record_that_is_gone_swapped_or_altered_is_refused_by_its_offset() -> None:
    async def story() -> None:
        log = Log(usage=0)
        holder = Holder(log)
        await holder.take()
        for seed in range(6):
            holder.fold(seed)
            await holder.checkpoint({})
        pointer = Pointer.read(log.commits[0][1])
        index = Index.read(await holder.member.read_state(0, pointer), pointer)
        whole = await holder.member.read_records(0, index.offsets)
        assert len(whole) > 3
        for offset in index.offsets:
            other = whole[next(o for o in index.offsets if o != offset)]
            inside = int(index.blocks["place"][index.blocks["record"] == offset][0])
            bent = bytearray(whole[offset])
            bent[inside + 6] ^= 1
            gone = {o: value for o, value in whole.items() if o != offset}
            for records in (gone, {**whole, offset: other}, {**whole, offset: bytes(bent)}, {**whole, offset: b""}):
                with pytest.raises(BadCheckpoint, match=f"record {offset} of the state is"):
                    index.fill(records, pointer, Buffer())

    asyncio.run(story())


COLUMNS = ("xxh64", "record", "place", "size", "head", "steps", "records", "length", "offset", "bytes")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(COLUMNS), st.sampled_from(["dropped", "cut", "bent"]), st.integers(0, 2**20), st.integers(-(2**62), 2**62)
)
def test_an_index_that_is_bent_under_the_right_hash_is_refused_or_means_the_same(
    column: str, how: str, at: int, value: int
) -> None:
    async def story() -> None:
        log = Log(usage=0)
        holder = Holder(log)
        await holder.take()
        await holder.checkpoint({})
        pointer = Pointer.read(log.commits[0][1])
        pieces = await holder.member.read_state(0, pointer)
        state = {n: c.copy() for n, c in read(decompress(b"".join(pieces), Buffer())).state.items()}
        if how == "dropped":
            del state[column]
        elif how == "cut":
            state[column] = state[column][:-1]
        else:
            state[column].reshape(-1)[at % state[column].size] = np.int64(value).astype(state[column].dtype)
        bent = chunks(compress(pack(Checkpoint(state, ""), Buffer())))
        again = Pointer.to(bent, 1, 1, pointer.first, IN_BLOCKS)
        try:
            index = Index.read(bent, again)
            checkpoint, _ = index.fill(await holder.member.read_records(0, index.offsets), again, Buffer())
        except BadCheckpoint:
            return
        for name, rows in checkpoint.state.items():
            assert column == "head" or rows.tobytes() == holder.arrays[name].tobytes()

    asyncio.run(story())


def one_hot_row(arrays: Snapshot, round: int) -> None:
    arrays["rows"][0] += 1


def a_few_anywhere(arrays: Snapshot, round: int) -> None:
    arrays["rows"][np.random.default_rng(round).integers(0, len(arrays["rows"]), 40)] += 1


def a_few_hot_some_cold(arrays: Snapshot, round: int) -> None:
    rng = np.random.default_rng(round)
    arrays["rows"][rng.integers(0, 200, 40)] += 1
    arrays["rows"][rng.integers(0, len(arrays["rows"]), 3)] += 1


def in_turn(arrays: Snapshot, round: int) -> None:
    arrays["rows"][np.arange(50 * round, 50 * round + 50) % len(arrays["rows"])] += 1


def half(arrays: Snapshot, round: int) -> None:
    arrays["rows"][::8] += round % 2
    arrays["rows"][4::8] += 1 - round % 2


def all_rows(arrays: Snapshot, round: int) -> None:
    arrays["rows"] += 1


def grows(arrays: Snapshot, round: int) -> None:
    arrays["rows"] = np.concatenate([arrays["rows"], noise(round, 20)])


@pytest.mark.parametrize("fold", [one_hot_row, a_few_anywhere, a_few_hot_some_cold, in_turn, half, all_rows, grows])
def test_the_log_stays_within_about_three_full_checkpoints(
    fold: Callable[[Snapshot, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 20_000)

    async def story() -> tuple[float, float]:
        log = Log(usage=0)
        holder, most, least = Holder(log), 0.0, np.inf
        await holder.take()
        holder.arrays = {"rows": noise(1, 5_000)}
        for round in range(250):
            fold(holder.arrays, round)
            written = await holder.checkpoint({})
            if holder.asked:
                await holder.member.delete_state(0, holder.asked[-1])
            kept = sum(len(value) for _, value in log.records["state", 0][log.first["state", 0] :])
            full = int(written.kept.blocks["size"].sum()) + written.pointer.length
            most, least = max(most, kept / full), min(least, kept / full)
            if round % 50 == 49:
                await holder.take()
        return most, least

    most, least = asyncio.run(story())
    assert most < 3.1
    assert least >= 1


def test_without_moving_old_blocks_the_log_grows_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FULL", 10**9)
    with pytest.raises(AssertionError):
        test_the_log_stays_within_about_three_full_checkpoints(a_few_anywhere, monkeypatch)


def test_a_checkpoint_of_before_there_were_blocks_is_gone_on_from() -> None:
    """Its burn is open: what is said from here on is what a worker says that has seen all of it."""
    metadata, blob = (Path(__file__).parent / "checkpoints" / "before-blocks.bin").read_bytes().split(b"\n", 1)
    pointer = Pointer.read(metadata.decode())
    log, whole = new_log(), new_log()
    log.records["state", 0] += [(b"0/0/0", b"")] * pointer.first
    log.records["state", 0] += [(chunk_key(pointer.generation, pointer.number, 0), blob)]
    log.commits[0] = (168, metadata.decode())
    log.generation = pointer.generation
    asyncio.run(play(Member(log)))
    asyncio.run(play(Member(whole)))
    assert Pointer.read(log.commits[0][1]).kind == IN_BLOCKS
    assert committed_state(log) == committed_state(whole)
    ends = {id: signal.phase for id, signal in said(log)[0].items()}
    assert ends.items() <= {id: signal.phase for id, signal in said(whole)[0].items()}.items()
    assert "clear" in ends.values()
