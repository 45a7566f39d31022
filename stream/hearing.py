"""The responder's reading of `burnguard.signals`: records in, the book and the fold of the pulses on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol, TypeAlias

import msgspec
import structlog

from actions.ledger import Ledger
from detectors.gap import SplitKeys
from schemas.batch import SLICE, Ms
from schemas.pulse import PULSE, Pulse
from schemas.reading import READING, Reading
from schemas.rollup import USAGE, Rollup
from schemas.signals import SIGNAL, Signal
from schemas.snapshot import BadCheckpoint
from stream.checkpoint import Buffer, Checkpoint, compress, decompress, pack, read
from stream.duty import Duty
from stream.readings import ENDS

KEEP: Ms = 30_000
"""How often the fold is kept: what a takeover must read again."""
log = structlog.get_logger()

Heard: TypeAlias = Signal | Pulse | Reading | Rollup | None


class Record(Protocol):
    """What is on the topic: key `signal`, `pulse`, `reading` or `usage`, and its bytes."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class Hearing:
    """Reads for one term of duty, from where the ledger stands.

    Records before the ledger's position were decided about in an earlier term: they are read for the fold alone. Usage
    is in no fold: what it says is in the ledger together with the position, as that of `source`, the topic of the calls.
    `unreadable` counts records that nobody can read and that are skipped, `lost` those that the topic's retention took.
    """

    def __init__(self, duty: Duty, ledger: Ledger, source: str) -> None:
        self.unreadable = 0
        self.lost = 0
        self._duty = duty
        self._source = source
        self._keys = SplitKeys()
        self._buffer = Buffer()
        self._position = ledger.position()
        self._after = self._restored(ledger.fold())
        self._kept: Ms | None = None

    @property
    def position(self) -> int | None:
        """The offset after the last record that was decided about; None before the first."""
        return self._position

    def begin(self, first: int, end: int) -> int:
        """The offset to begin at in a log that reaches from `first` to `end`."""
        if self._position is not None and self._position > end:
            log.error("the topic ends before the ledger's position: read anew", position=self._position, end=end)
            self._position = self._after = None
        if self._position is None or self._after is None:
            return first
        self.lost = max(0, first - self._position)
        if self.lost:
            log.error("retention was faster than the responder: signals are lost", records=self.lost, first=first)
        return max(first, min(self._position, self._after))

    def take(self, records: Iterable[Record], now: Ms) -> None:
        """Records in the order of the topic."""
        heard = ((record.offset + 1, self._read(record)) for record in records)
        for kind, group in itertools.groupby(heard, lambda said: _kind(said[1])):
            if kind is Signal:
                self._signals(list(group), now)
                continue
            for after, said in group:
                if isinstance(said, Pulse):
                    self._pulse(said, after, now)
                elif isinstance(said, Reading):
                    self._reading(said, after)
                elif isinstance(said, Rollup):
                    self._usage(said, after, now)
        if self._kept is None or now - self._kept >= KEEP:
            self.keep(now)

    def keep(self, now: Ms) -> None:
        """Write the fold down, and how far it and the book have read. Raises Deposed."""
        self._kept = now
        if self._after is not None:
            state = Checkpoint(self._duty.tenants.snapshot(), config="")
            self._duty.responder.keep_fold(self._after, bytes(compress(pack(state, self._buffer))))

    def _pulse(self, pulse: Pulse, after: int, now: Ms) -> None:
        self._duty.tenants.fold(pulse)
        self._after = after
        if self._is_new(after):
            self._position = after
            split = self._keys.seen(pulse.partition, pulse.keys.names, now)
            if split:
                self._duty.responder.hear(split, now)
            behind = self._duty.tenants.behind(pulse.partition)
            self._duty.responder.pane(pulse.partition, pulse.clock - SLICE, pulse.burning, now, after, behind)

    def _reading(self, reading: Reading, after: int) -> None:
        self._duty.tenants.readings.fold(reading)
        self._after = after
        if self._is_new(after):
            self._position = after

    def _usage(self, rollup: Rollup, after: int, now: Ms) -> None:
        self._after = after
        if self._is_new(after):
            self._position = after
            self._duty.responder.count(rollup, self._source, now, after)

    def _signals(self, heard: list[tuple[int, Heard]], now: Ms) -> None:
        """Signals, and what nobody can read, up to the next pulse or rollup."""
        self._after = heard[-1][0]
        signals = [said for after, said in heard if isinstance(said, Signal) and self._is_new(after)]
        if self._is_new(self._after):
            self._position = self._after
            self._duty.responder.hear(signals, now, self._position)

    def _is_new(self, after: int) -> bool:
        return self._position is None or after > self._position

    def _read(self, record: Record) -> Heard:
        try:
            if record.key == SIGNAL:
                return Signal.read(record.value or b"")
            if record.key == PULSE:
                return Pulse.read(record.value or b"")
            if record.key == READING:
                return Reading.read(record.value or b"", ENDS)
            if record.key == USAGE:
                return Rollup.read(record.value or b"")
            reason = f"its key is {record.key!r}"
        except msgspec.DecodeError as error:
            reason = str(error)
        self.unreadable += 1
        if self.unreadable == 1:
            log.error("unreadable record skipped, more are only counted", offset=record.offset, reason=reason)
        return None

    def _restored(self, kept: tuple[int, bytes] | None) -> int | None:
        """The offset that the kept fold reaches to; None where it must be made anew from the log."""
        if kept is None:
            return None
        after, blob = kept
        try:
            self._duty.tenants.restore(read(decompress(blob, self._buffer)).state)
        except BadCheckpoint as error:
            log.warning("the kept fold of the pulses is not readable; it is made anew from the log", reason=str(error))
            return None
        return after


def _kind(said: Heard) -> type[Signal] | type[Pulse] | type[Reading] | type[Rollup]:
    """What cannot be read is taken as a signal that says nothing."""
    return Signal if said is None else type(said)
