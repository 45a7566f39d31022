"""Raw record batches, held against aiokafka's own reader of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import crc32c
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import ABSENT
from stream.records import HEADER, BatchReader, Fetched, Unreadable, to_lines

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
TP = TopicPartition("usage", 0)
Record = tuple[bytes | None, bytes | None]


def build(base: int, records: list[Record], codec: int = 0, *, producer: int = -1, transactional: bool = False) -> bytes:
    """One batch as a producer builds it, given its base offset as the broker does."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=transactional,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 20,
    )
    for offset, (key, value) in enumerate(records):
        builder.append(offset, 1_700_000_000_000 + offset, key, value, [("h", b"x")] if offset % 3 == 0 else [])
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return bytes(data)


def marker(base: int, producer: int, commit: bool) -> bytes:
    """A transaction's end, as the broker writes it."""
    data = bytearray(build(base, [(b"\x00\x00\x00\x01" if commit else b"\x00\x00\x00\x00", b"\x00" * 6)], producer=producer))
    return with_attributes(data, 0x30)


def with_attributes(data: bytes | bytearray, bits: int) -> bytes:
    """The batch with more attribute bits, and the CRC that belongs to it."""
    out = bytearray(data)
    out[22] |= bits
    out[17:21] = crc32c.crc32c(bytes(out[21:])).to_bytes(4, "big")
    return bytes(out)


def theirs(data: bytes, aborted: list[tuple[int, int]], begin: int) -> list[tuple[int, bytes]]:
    """What a plain aiokafka consumer with read_committed sees."""
    records = PartitionRecords(TP, MemoryRecords(data), aborted, begin, None, None, True, READ_COMMITTED)
    return [(record.offset, record.value or b"") for record in records]


def ours(data: bytes, aborted: list[tuple[int, int]], begin: int) -> list[tuple[int, bytes]]:
    groups = list(BatchReader("usage-0", data, aborted, begin))
    assert [g.begin for g in groups[1:]] == [g.end for g in groups[:-1]]
    lines = to_lines("usage-0", groups)
    rows = zip(lines.position.tolist(), lines.start.tolist(), lines.end.tolist(), strict=True)
    return [(at, lines.buffer[start:end].tobytes()) for at, start, end in rows if at >= begin]


def records() -> st.SearchStrategy[list[Record]]:
    bytes_or_none = st.one_of(st.none(), st.binary(max_size=200))
    return st.lists(st.tuples(bytes_or_none, bytes_or_none), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_we_read_is_what_a_read_committed_consumer_reads(data: st.DataObject) -> None:
    offset, batches, aborted = 0, [], []
    open_ones: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        producer = data.draw(st.sampled_from([-1, 7, 8]))
        if producer > 0 and producer in open_ones and data.draw(st.booleans()):
            commit = data.draw(st.booleans())
            batches.append((offset, marker(offset, producer, commit)))
            first = open_ones.pop(producer)
            aborted += [] if commit else [(producer, first)]
            offset += 1
            continue
        rows = data.draw(records())
        if producer > 0:
            open_ones.setdefault(producer, offset)
        codec = data.draw(st.sampled_from(sorted(CODECS.values())))
        batches.append((offset, build(offset, rows, codec, producer=producer, transactional=producer > 0)))
        offset += len(rows)
    begin = data.draw(st.integers(0, offset - 1))
    first = max(n for n, (base, _) in enumerate(batches) if base <= begin)
    log = b"".join(batch for _, batch in batches[first:])
    cut = log[: data.draw(st.integers(0, len(log)))] if data.draw(st.booleans()) else log
    try:
        mine = ours(cut, aborted, begin)
    except Unreadable as error:
        assert "ended inside its first batch" in str(error)
        assert 0 < len(cut) < len(batches[first][1])
        return
    assert mine == theirs(cut, aborted, begin)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec: str) -> None:
    rows: list[Record] = [(b"acme", b'{"n": %d}' % n * 50) for n in range(500)]
    assert ours(build(40, rows, CODECS[codec]), [], 40) == [(40 + n, value) for n, (_, value) in enumerate(rows)]


def test_the_append_time_is_the_clock_and_a_producers_time_is_not() -> None:
    plain = build(0, [(None, b"a"), (None, b"b")])
    appended = bytearray(with_attributes(plain, 0x08))
    appended[35:43] = (1_800_000_000_000).to_bytes(8, "big")
    appended = bytearray(with_attributes(appended, 0x08))
    clocks = [to_lines("", list(BatchReader("", bytes(d), [], 0))).clock.tolist() for d in (plain, appended)]
    assert clocks == [[ABSENT, ABSENT], [1_800_000_000_000] * 2]


def test_control_batches_move_the_position_though_they_hold_no_call() -> None:
    group = next(BatchReader("", marker(9, 7, commit=True), [], 9))
    assert group == Fetched(9, 10, ())
    assert len(to_lines("", [group]).start) == 0


def damaged() -> Iterator[Any]:
    whole = build(5, [(None, b"hello")])
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    yield pytest.param(bytes(flipped), "wrong CRC", id="a wrong CRC")
    yield pytest.param(whole[:-1], "ended inside its first batch", id="a cut first batch")
    yield pytest.param(whole[:7], "ended inside its first batch", id="a cut header")
    old = bytearray(whole)
    old[16] = 1
    yield pytest.param(bytes(old), "message format v1", id="an old message format")
    yield pytest.param(with_attributes(whole, 0x07), "unknown codec 7", id="an unknown codec")
    yield pytest.param(with_attributes(whole, 0x04), "batch at offset 5", id="no zstd though it says so")


@pytest.mark.parametrize(("data", "said"), list(damaged()))
def test_what_cannot_be_read_says_where_and_why(data: bytes, said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        list(BatchReader("usage-0", data, [], 5))


def test_a_cut_last_batch_is_left_for_the_next_fetch() -> None:
    log = build(0, [(None, b"a")]) + build(1, [(None, b"b")])
    reader = BatchReader("", log[:-2], [], 0)
    assert [g.end for g in reader] == [1]


@settings(max_examples=200, deadline=None)
@given(records(), st.data())
def test_records_that_are_malformed_inside_a_right_crc_are_refused_or_read_within_bounds(
    rows: list[Record], data: st.DataObject
) -> None:
    broken = bytearray(build(0, rows))
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(HEADER.size, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        lines = to_lines("", list(BatchReader("", with_attributes(broken, 0), [], 0)))
    except Unreadable:
        return
    assert ((lines.start >= 0) & (lines.start <= lines.end) & (lines.end <= len(lines.buffer))).all()
