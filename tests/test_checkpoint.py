"""A checkpoint: nothing is lost in it, nothing damaged is believed, and going on from it is as never having stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.lib.recfunctions import repack_fields

from detectors.spend import SpendSpike
from schemas.batch import Batch
from schemas.quarantine import Quarantined
from schemas.snapshot import BadCheckpoint, Snapshot, joined, part
from stream.assembly import AFTER_END, Assembly
from stream.checkpoint import (
    EMPTY,
    IN_BLOCKS,
    Buffer,
    Checkpoint,
    Pointer,
    chunk_key,
    chunks,
    compress,
    pack,
    read,
    read_chunk_key,
    unpack,
)
from stream.dedupe import SeenIds
from stream.pipeline import Output, Pipeline
from stream.sources import FileClock, LineReader
from stream.tenants import TenantMeters
from tests.calls import T0, Call, batch, pipeline
from tests.exporters import exporters, flushed
from tests.panes import START, judge_spending
from tests.test_pipeline import streams

HABIT: list[Call] = [(m * 60_000, m * 60_000, m % 6, 0.01) for m in range(900)]
BURN: list[Call] = [(54_000_000 + s * 1000, 54_000_000 + s * 1000, 1, 0.5) for s in range(60)]
QUIET: list[Call] = [(54_060_000 + s * 1000, 54_050_000 + s * 1000, 2, 0.001) for s in range(60)]

snapshots = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from("|b1 |i1 |u1 <i4 <u4 <i8 <u8 <f8".split()).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    ),
    max_size=6,
)


def written(checkpoint: Checkpoint, limit: int = 200, buffer: Buffer | None = None) -> tuple[list[bytes], Pointer]:
    pieces = chunks(compress(pack(checkpoint, buffer or Buffer())), limit)
    return pieces, Pointer.to(pieces, generation=3, number=14, first=1_000)


def through_bytes(state: Snapshot) -> Snapshot:
    pieces, pointer = written(Checkpoint(state, "abc"))
    return unpack(pieces, Pointer.read(pointer.to_metadata()), Buffer()).state


@settings(max_examples=100, deadline=None)
@given(
    st.lists(snapshots, min_size=1, max_size=3), st.text(max_size=16), st.dictionaries(st.text(), st.integers(0, 2**64 - 1))
)
def test_a_checkpoint_comes_back_as_it_was_whatever_its_buffer_held_before(
    states: list[Snapshot], config: str, numbers: dict[str, int]
) -> None:
    buffer = Buffer()
    for state in states:
        pieces, pointer = written(Checkpoint(state, config, numbers), 50, buffer)
        again = unpack(pieces, pointer, Buffer())
        assert (again.config, again.numbers, list(again.state)) == (config, numbers, list(state))
        for name, column in state.items():
            assert again.state[name].dtype == column.dtype
            np.testing.assert_array_equal(again.state[name], column)


@settings(max_examples=40, deadline=None)
@given(snapshots)
def test_the_same_state_makes_the_same_bytes_whatever_its_buffer_held_before(state: Snapshot) -> None:
    dirty = Buffer()
    dirty.first(10_000)[:] = 255
    assert pack(Checkpoint(state, ""), dirty) == pack(Checkpoint(state, ""), Buffer())


def test_columns_that_lie_apart_in_memory_come_back_as_they_were() -> None:
    rows = np.arange(20, dtype=np.int64).reshape(10, 2)
    again = through_bytes({"every other": rows[::2], "one": rows[:, 1]})
    assert again["every other"].tolist() == rows[::2].tolist()
    assert again["one"].tolist() == rows[:, 1].tolist()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_chunks_that_are_lost_doubled_swapped_cut_or_bent_are_refused(data: st.DataObject) -> None:
    rows = np.random.default_rng(1).integers(0, 2**60, 200)
    pieces, pointer = written(Checkpoint({"rows": rows}, "abc"))
    i, j = data.draw(st.tuples(*[st.integers(0, len(pieces) - 1)] * 2).filter(lambda two: two[0] != two[1]))
    damage = data.draw(st.sampled_from(["lost", "doubled", "swapped", "cut", "bent"]))
    if damage == "lost":
        del pieces[i]
    elif damage == "doubled":
        pieces[i] = pieces[j]
    elif damage == "swapped":
        pieces[i], pieces[j] = pieces[j], pieces[i]
    elif damage == "cut":
        pieces[i] = pieces[i][: data.draw(st.integers(0, len(pieces[i]) - 1))]
    else:
        bit = data.draw(st.integers(0, 8 * len(pieces[i]) - 1))
        bent = bytearray(pieces[i])
        bent[bit // 8] ^= 1 << bit % 8
        pieces[i] = bytes(bent)
    with pytest.raises(BadCheckpoint, match="chunks"):
        unpack(pieces, pointer, Buffer())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans())
@example(b"\xff" * 8, True)
@example(b"burn\xff\xff\xff\xff", False)
def test_garbage_with_the_right_hash_is_refused_too(garbage: bytes, as_blob: bool) -> None:
    blob = garbage if as_blob else bytes(compress(memoryview(garbage)))
    with pytest.raises(BadCheckpoint):
        unpack([blob], Pointer.to([blob], 1, 1, 0), Buffer())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 119), st.integers(0, 255))
def test_a_bent_header_is_refused_or_read_and_never_reaches_beyond_its_bytes(at: int, value: int) -> None:
    packed = np.frombuffer(
        bytes(pack(Checkpoint({"a": np.arange(9), "b": np.zeros((3, 4), np.int8)}, "x"), Buffer())), np.uint8
    )
    bent = packed.copy()
    bent[at % len(bent)] = value
    try:
        state = read(bent).state
    except BadCheckpoint as error:
        assert str(error)
        return
    assert sum(column.nbytes for column in state.values()) <= 2 * len(packed)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (["a", "|O", [1], 0], "is of"),
        (["a", [["f", "|O", []]], [1], 0], "is of"),
        (["a", [["f", "<i8", [10**9]]], [10**9], 0], "does not lie within"),
        (["a", [["f", "<i8", [-1]]], [1], 0], "array a"),
        (["a", [["f", "<i8", []], ["f", "<i8", []]], [1], 0], "array a"),
        (["a", "<i8", [10**12], 0], "does not lie within"),
        (["a", "<i8", [-1], 0], "does not lie within"),
        (["a", "<i8", [1], 2**62], "does not lie within"),
        (["a", "<i8", [0, 2**62, 2**62], 0], "array a"),
        (["a", "<i8", "x", 0], "header"),
    ],
)
def test_a_header_that_promises_nonsense_is_refused_with_the_arrays_name(array: list[Any], said: str) -> None:
    header = msgspec.msgpack.encode([1, "", {}, [array]])
    packed = b"burn" + len(header).to_bytes(4, "little") + header + bytes(200)
    with pytest.raises(BadCheckpoint, match=said):
        read(np.frombuffer(packed, np.uint8).copy())


def test_a_newer_format_is_refused_by_its_number() -> None:
    packed = bytearray(pack(Checkpoint({}, ""), Buffer()))
    packed[9] = 2
    with pytest.raises(BadCheckpoint, match="format 2, this version of Burnguard reads 1"):
        read(np.frombuffer(bytes(packed), np.uint8).copy())


def test_a_pointer_is_one_short_line_and_other_metadata_is_no_pointer() -> None:
    pointer = Pointer(2**31, 10**9, 2**53, 10**4, 10**10, 2**64 - 1)
    line = pointer.to_metadata()
    assert line.startswith("burnguard:1 generation=2147483648 number=1000000000 first=")
    assert len(line) < 200
    assert Pointer.read(line) == pointer
    for other in ("", EMPTY, line[:-1], line + " ", line.replace(":1", ":3"), "x" * 5000, line.replace("first=", "first=-")):
        with pytest.raises(BadCheckpoint, match="is not a pointer"):
            Pointer.read(other)


def test_an_index_of_blocks_is_not_taken_for_a_whole_checkpoint() -> None:
    pieces, pointer = written(Checkpoint({"rows": np.arange(9)}, ""))
    other = replace(pointer, kind=IN_BLOCKS)
    assert other.to_metadata().startswith("burnguard:2 ")
    assert Pointer.read(other.to_metadata()) == other
    with pytest.raises(BadCheckpoint, match="in blocks"):
        unpack(pieces, other, Buffer())


def test_a_chunks_key_says_whose_it_is() -> None:
    assert chunk_key(7, 42, 3) == b"7/42/3"
    assert read_chunk_key(b"7/42/3") == (7, 42, 3)
    for other in (b"", b"7/42", b"7/42/x", b"7/42/3\n", b"-7/42/3"):
        with pytest.raises(BadCheckpoint):
            read_chunk_key(other)


def leave_out(state: Snapshot, name: str) -> None:
    """Drop an array, or a detector's column."""
    detector, _, column = name.partition(".")
    if detector == "spend" and column != "columns":
        columns = state["spend.columns"]
        kept = [other for other in columns.dtype.names or () if other != column]
        state["spend.columns"] = repack_fields(columns[kept])
    else:
        del state[name]


def resumed(line: Pipeline, without: str | None = None) -> Pipeline:
    """A fresh pipeline that goes on where `line` was."""
    state = through_bytes(line.snapshot())
    if without is not None:
        leave_out(state, without)
    fresh = pipeline(SeenIds(16))
    fresh.restore(state)
    return fresh


def played(calls: Batch, cuts: list[int], without: str | None = None) -> tuple[Output, Pipeline]:
    """All calls and 15 quiet minutes, stopped and gone on at each cut."""
    line, said = pipeline(SeenIds(16)), Output()
    for lo, hi in zip([0, *cuts], [*cuts, len(calls)], strict=True):
        if lo or cuts[:1] == [0]:
            line = resumed(line, without)
        hear(said, line.feed(calls.rows(lo, hi)))
    hear(said, line.advance(int(calls.clock.max()) + AFTER_END))
    return said, line


def hear(said: Output, more: Output) -> None:
    said.signals += more.signals
    said.pulses += more.pulses
    said.usage += more.usage


def told(said: Output) -> tuple[list[bytes], list[bytes], list[bytes]]:
    parts = [[message for whole in every for message in whole.parts()] for every in (said.pulses, said.usage)]
    return [signal.to_json() for signal in said.signals], parts[0], parts[1]


@settings(max_examples=60, deadline=None)
@given(st.one_of(streams(), exporters()), st.data())
def test_going_on_from_a_checkpoint_is_as_never_having_stopped(calls: list[Call], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(calls)), min_size=1, max_size=3)))
    ids = [n if n > 40 else data.draw(st.integers(1, 40)) for n in range(len(calls))]
    whole, line = played(batch(calls, ids), [])
    pieces, other = played(batch(calls, ids), cuts)
    assert told(pieces) == told(whole)
    assert other.counters == line.counters
    assert set(other.snapshot()) == set(line.snapshot())
    for name, column in line.snapshot().items():
        if name not in ("seen.ring", "seen.seen"):
            np.testing.assert_array_equal(other.snapshot()[name], column, err_msg=name)


@pytest.mark.parametrize(
    "array",
    [
        "spend.peak",
        "spend.learnt",
        "spend.open",
        "spend.started",
        "spend.born",
        "counters.usd",
        "counters.duplicate",
        "usage.cells",
    ],
)
def test_without_one_array_of_the_checkpoint_going_on_is_not_the_same(array: str) -> None:
    calls = batch(HABIT + BURN + QUIET, [n - n % 7 % 2 for n in range(len(HABIT + BURN + QUIET))])
    cut = [len(HABIT) + 30]
    whole, _ = played(calls, [])
    assert {signal.phase for signal in whole.signals} >= {"open", "clear"}
    assert told(played(calls, cut)[0]) == told(whole)
    assert told(played(calls, cut, without=array)[0]) != told(whole)


def test_without_the_graces_of_the_checkpoint_a_late_tenant_is_not_judged_as_before() -> None:
    calls = batch(sorted(flushed((0, 300), 30) + flushed((0, 300), 0, key=5)))
    whole, _ = played(calls, [])
    assert told(played(calls, [401])[0]) == told(whole)
    assert told(played(calls, [401], without="grace.tenants")[0]) != told(whole)


def test_a_part_that_cannot_start_at_a_default_is_missed_by_name() -> None:
    line = pipeline(SeenIds(16))
    line.feed(batch(HABIT[:10]))
    for name in line.snapshot():
        if not name.startswith(("spend.", "counters.", "usage.", "grace.", "meters.", "attempts.", "skew.", "mismatch.")):
            with pytest.raises(BadCheckpoint, match=name.rpartition(".")[2]):
                resumed(line, without=name)


def test_a_ring_of_another_length_is_refused_and_not_read_past_its_end() -> None:
    line = pipeline(SeenIds(16))
    line.feed(batch(HABIT))
    state = line.snapshot()
    state["keys.usd"] = state["keys.usd"][:, :90]
    with pytest.raises(BadCheckpoint, match="usd"):
        pipeline().restore(state)


def test_restored_state_is_its_own_and_can_grow() -> None:
    line = pipeline(SeenIds(16))
    line.feed(batch(HABIT))
    kept = {name: column.copy() for name, column in line.snapshot().items()}
    other = pipeline(SeenIds(16))
    other.restore(kept)
    other.feed(batch(BURN))
    for name, column in line.snapshot().items():
        np.testing.assert_array_equal(kept[name], column, err_msg=name)
    other._keys.grow(5_000)
    assert other._keys.head.shape == (5_000, 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=120), st.integers(0, 120), st.sampled_from([16, 8, 32]))
def test_a_restored_dedupe_window_forgets_the_same_ids_in_the_same_order(ids: list[int], cut: int, size: int) -> None:
    first, second = (np.array([i % 8 + i // 8 * 32 for i in some], np.uint64) for some in (ids[:cut], ids[cut:]))
    seen, other = SeenIds(16), SeenIds(size)
    seen.first_seen(first)
    other.restore(through_bytes(seen.snapshot()))
    window = list(dict.fromkeys(reversed(_fresh(seen, first))))[:size][::-1]
    for i in second.tolist():
        assert other.first_seen(np.array([i], np.uint64))[0] == (i not in window)
        if i not in window:
            window = [*window, i][-size:]


def _fresh(seen: SeenIds, ids: Any) -> list[int]:
    """The ids of the window, oldest first, by a twin that knows nothing of rings."""
    window: list[int] = []
    for i in ids.tolist():
        if i not in window:
            window = [*window, i][-16:]
    return window


def test_a_column_added_later_starts_at_its_default_and_a_dropped_one_is_forgotten() -> None:
    detector = SpendSpike()
    judge_spending(detector, [0.01] * 2000)
    columns = detector.snapshot()["columns"]
    kept = [(name, columns.dtype[name]) for name in columns.dtype.names or () if name != "hot"]
    old = np.zeros(len(columns), [*kept[5:], ("of an older version", np.int64), *kept[:5]])
    for name, _ in kept:
        old[name] = columns[name]
    newer = SpendSpike()
    newer.restore(through_bytes({"columns": old}))
    state = newer.snapshot()["columns"]
    assert state.dtype == columns.dtype
    assert state["hot"].tolist() == [0]
    assert state["peak"].tolist() == columns["peak"].tolist()
    assert next(s.phase for s in judge_spending(newer, [1.0] * 24, START + 2000)) == "open"


def test_a_column_that_became_another_kind_is_refused_by_name() -> None:
    columns = np.zeros(3, [("born", np.float32)])
    with pytest.raises(BadCheckpoint, match="field born of columns is float32, not int64"):
        SpendSpike().restore({"columns": columns})
    with pytest.raises(BadCheckpoint, match="not records"):
        SpendSpike().restore({"columns": np.zeros(3)})


def test_a_detector_that_the_checkpoint_does_not_know_starts_afresh() -> None:
    line = pipeline(SeenIds(16))
    line.feed(batch(HABIT))
    fresh = pipeline(SeenIds(16))
    fresh.restore({name: column for name, column in line.snapshot().items() if not name.startswith("spend.")})
    assert not len(fresh.snapshot()["spend.columns"])
    assert fresh.counters == line.counters


class Stateful(Protocol):
    def restore(self, snapshot: Snapshot) -> None: ...


class Reading:
    """One file's bytes through everything that `burnguard run` keeps in memory."""

    def __init__(self) -> None:
        self.assembly = Assembly([], dedupe=16)
        self.reader = LineReader(self.assembly.decoder)
        self.clock = FileClock()
        self.tenants = TenantMeters()

    def snapshot(self) -> Snapshot:
        return joined(
            assembly=self.assembly.snapshot(),
            reader=self.reader.snapshot(),
            clock=self.clock.snapshot(),
            tenants=self.tenants.snapshot(),
        )

    def resumed(self, without: str) -> Reading:
        """A fresh one that goes on; the part `without` stays as a fresh one has it."""
        other, state = Reading(), through_bytes(self.snapshot())
        both = part(state, "assembly")
        if without in ("decoder", "pipeline"):
            kept: Stateful = other.assembly.pipeline if without == "decoder" else other.assembly.decoder
            kept.restore(part(both, "pipeline" if without == "decoder" else "decoder"))
        else:
            other.assembly.restore(both)
        parts: dict[str, Stateful] = {"reader": other.reader, "clock": other.clock, "tenants": other.tenants}
        for name in parts.keys() - {without}:
            parts[name].restore(part(state, name))
        return other


def read_out(data: bytes, cuts: list[int], without: str = "") -> tuple[Any, ...]:
    """What is said and counted of a file read in pieces, with a restart between them that reads on at the position."""
    reading, said = Reading(), Output()
    refused: list[Quarantined] = []

    def feed(some: Batch | None) -> None:
        output = reading.assembly.pipeline.feed(some) if some is not None else Output()
        for pulse in output.pulses:
            reading.tenants.fold(pulse)
        hear(said, output)
        refused.extend(reading.reader.quarantined)
        reading.reader.quarantined.clear()

    for cut in cuts:
        feed(reading.clock.feed(reading.reader.read(data[reading.reader.position : cut], held=reading.clock.held)))
        reading = reading.resumed(without)
    feed(reading.clock.feed(reading.reader.read(data[reading.reader.position :], held=reading.clock.held)))
    feed(reading.clock.feed(reading.reader.finish(held=reading.clock.held)))
    feed(reading.clock.finish())
    return (
        *told(said),
        reading.assembly.pipeline.counters,
        refused,
        reading.tenants.spent(3_600_000),
        reading.assembly.decoder.unknown_names,
        reading.assembly.decoder.keys.names,
    )


def lines_of(calls: list[Call], ids: list[int], odd: list[str]) -> bytes:
    lines = []
    for (clock, ts, key, usd), n, oddity in zip(calls, ids, odd, strict=True):
        event: dict[str, Any] = {
            "event_id": f"e{n}",
            "ts": (T0 + ts) / 1000,
            "tenant": f"tenant-{key // 4}",
            "key_id": f"key-{key}{oddity}",
            "provider": "openai",
            "model": "gpt-4o" if key % 2 else "nobody-knows-it",
            "input_tokens": 10,
            "output_tokens": round(usd * 100_000),
            "feature": f"feature-{key % 2}{oddity}",
            "operation": None if key % 3 else "chat",
        }
        if key % 3:
            event["arrival_ts"] = (T0 + clock) / 1000
        if oddity == "é":
            event["extra\n" + oddity] = 1
        lines.append(b"{broken" if oddity == "x" else json.dumps(event, ensure_ascii=n % 2 == 0).encode())
    return b"\n".join(lines)


@settings(max_examples=40, deadline=None)
@given(streams(), st.data())
def test_a_file_read_on_from_a_checkpoint_says_the_same_as_one_read_in_one_go(calls: list[Call], data: st.DataObject) -> None:
    n = len(calls)
    ids = data.draw(st.lists(st.integers(1, 40), min_size=n, max_size=n))
    odd = data.draw(st.lists(st.sampled_from(["", "", "é", "x", "日本"]), min_size=n, max_size=n))
    whole = lines_of(calls, ids, odd)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=3)))
    assert read_out(whole, cuts) == read_out(whole, [])


@pytest.mark.parametrize("part", ["decoder", "pipeline", "reader", "clock", "tenants"])
def test_without_one_part_of_the_checkpoint_reading_on_is_not_the_same(part: str) -> None:
    calls = [(at * 1000, at * 1000, at % 6, 0.01) for at in range(200)]
    whole = lines_of(calls, list(range(200)), [""] * 200)
    assert read_out(whole, [30_000]) == read_out(whole, [])
    assert read_out(whole, [30_000], without=part) != read_out(whole, [])
