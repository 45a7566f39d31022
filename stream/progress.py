"""How far a run on a file or a journal has come, kept in a checkpoint, so that a restart goes on where it was."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from schemas.batch import Batch
from schemas.snapshot import BadCheckpoint, Snapshot, joined, number, of_numbers, part
from stream.assembly import Assembly
from stream.checkpoint import Buffer, Checkpoint, pack
from stream.checkpoint_file import CheckpointFile
from stream.live import usd
from stream.quarantine import QuarantineFile
from stream.sources import FileClock, LineReader, opened, read_on, read_out
from stream.tenants import TenantMeters

HEAD_BYTES = 4096
"""A file is known again by so many of its first bytes."""
SHARE = 10
"""The next checkpoint waits for so many times what the last one took, so that a large state is not written all the time."""


class Followed(Protocol):
    """Bytes that are read from a position on, how they are known again, and what of their clock is in a checkpoint."""

    @property
    def path(self) -> Path: ...
    def marks(self, position: int) -> dict[str, int]:
        """By what a checkpoint at a position knows them again."""
        ...

    def difference(self, checkpoint: Checkpoint) -> str | None:
        """How it shows that the checkpoint is of others."""
        ...

    def listed(self, quarantine: QuarantineFile, covered: int) -> int:
        """How many refused lines stay listed behind the first `covered` bytes; those that are read again do not."""
        ...

    def snapshot(self) -> Snapshot: ...
    def restore(self, snapshot: Snapshot) -> None: ...


class File:
    """A file (`.gz`: gzip), known by its first bytes. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FileClock()

    def marks(self, position: int) -> dict[str, int]:
        head_bytes, head = self._head(position)
        return {"head_bytes": head_bytes, "head": head}

    def difference(self, checkpoint: Checkpoint) -> str | None:
        position, head_bytes = known(checkpoint, "position"), known(checkpoint, "head_bytes")
        if self._head(head_bytes) != (head_bytes, known(checkpoint, "head")):
            return f"whose first {head_bytes} bytes differ"
        if position:
            with opened(self.path) as file:
                file.seek(position - 1)
                if not file.read(1):
                    return f"which is shorter than {position} bytes"
        return None

    def listed(self, quarantine: QuarantineFile, covered: int) -> int:
        quarantine.cut(covered)
        return 0

    def snapshot(self) -> Snapshot:
        return self.clock.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self.clock.restore(snapshot)

    def batches(self, reader: LineReader) -> Iterator[Batch]:
        """The calls from where the reader is on, but the last ones of the file as it is now."""
        with opened(self.path) as file:
            file.seek(reader.position)
            yield from read_on(file, reader, self.clock)

    def last_batches(self, reader: LineReader) -> Iterator[Batch]:
        """The calls that the clock still holds, and the last line, which may lack its newline. No checkpoint after this."""
        yield from read_out(reader, self.clock)

    def _head(self, most: int) -> tuple[int, int]:
        """How many of the first bytes, at most `most`, and their BLAKE2b-64 (RFC 7693)."""
        with opened(self.path) as file:
            head = file.read(min(most, HEAD_BYTES))
        return len(head), int.from_bytes(hashlib.blake2b(head, digest_size=8).digest(), "big")


class Progress:
    """What is read, and one consistent cut of all that reading it has made.

    A checkpoint stands between two batches, when every signal up to it is in the ledger; what comes after it is read
    again, and the ledger knows by its ids what it has decided. It is about what has the same marks.
    Before the first one there is one of byte 0, so that what was refused by then is not listed twice.
    """

    def __init__(
        self,
        source: Followed,
        file: CheckpointFile,
        assembly: Assembly,
        tenants: TenantMeters,
        quarantine: QuarantineFile,
        every_s: float,
    ) -> None:
        self.reader = LineReader(assembly.decoder)
        self.restored = False
        self._source = source
        self._file = file
        self._assembly = assembly
        self._tenants = tenants
        self._quarantine = quarantine
        self._every_s = every_s
        self._buffer = Buffer()
        self._history: dict[str, int] = {}
        self._refused = 0
        self.saved = 0
        self._due = time.monotonic() + every_s

    def resume(self, say: Callable[[str], None]) -> bool:
        """Go on from the checkpoint. False where the file is read from its beginning, and the history before it.

        Raises BadCheckpoint, which says what to do, and OSError.
        """
        try:
            checkpoint = self._file.read(self._buffer)
            difference = None if checkpoint is None else self._source.difference(checkpoint)
            if difference:
                afresh = f"reading {self._source.path} from its beginning"
                say(f"afresh     {self._file.path} is of another file, {difference}; {afresh}")
            if checkpoint is None or difference:
                self._file.write(pack(self._checkpoint(), self._buffer))
                return False
            self._refused = self._source.listed(self._quarantine, known(checkpoint, "quarantine_bytes"))
            if not known(checkpoint, "position"):
                return False
            self._restore(checkpoint)
        except BadCheckpoint as error:
            raise BadCheckpoint(
                f"{self._file.path} cannot be used: {error}. Delete it to read {self._source.path} from its beginning"
                " (the ledger is not touched, and what it has decided is not decided again)"
            ) from error
        self.restored = True
        say(self._told(checkpoint))
        return True

    def begin(self) -> None:
        """The history has been read; what comes now is the file's."""
        self._history = dict(self._assembly.pipeline.counters)

    def due(self) -> bool:
        """Is it time for a checkpoint of what was read since the last?"""
        return time.monotonic() >= self._due and self.reader.position > self.saved

    async def save(self) -> None:
        """Write a checkpoint; only the copy is made on the loop. Callers have answered and kept all that was read."""
        if not self.reader.position:
            return
        began = time.monotonic()
        self._due = began + self._every_s
        checkpoint = self._checkpoint()
        await asyncio.to_thread(self._buffer.prepare, checkpoint.state)
        packed = pack(checkpoint, self._buffer)
        await asyncio.to_thread(self._write, packed)
        self.saved = checkpoint.numbers["position"]
        now = time.monotonic()
        self._due = now + (max(self._every_s, SHARE * (now - began)) if self._every_s else 0)

    def total(self) -> tuple[int, int, int]:
        """Unique calls, nano-dollars and refused lines of the file in all, over all runs."""
        counters = self._assembly.pipeline.counters
        calls, spent = (counters[name] - self._history.get(name, 0) for name in ("unique", "usd"))
        return calls, spent, self._refused + self._quarantine.kept

    def _write(self, packed: memoryview) -> None:
        self._quarantine.sync()
        self._file.write(packed)

    def _checkpoint(self) -> Checkpoint:
        state = joined(
            assembly=self._assembly.snapshot(),
            reader=self.reader.snapshot(),
            clock=self._source.snapshot(),
            tenants=self._tenants.snapshot(),
            history=of_numbers(**self._history),
        )
        numbers = {
            "position": self.reader.position,
            **self._source.marks(self.reader.position),
            "quarantine_bytes": self._quarantine.size(),
            "refused": self._refused + self._quarantine.kept,
        }
        return Checkpoint(state, self._assembly.config, numbers)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state: Snapshot = checkpoint.state
        self._assembly.restore(part(state, "assembly"))
        self.reader.restore(part(state, "reader"))
        self._source.restore(part(state, "clock"))
        self._tenants.restore(part(state, "tenants"))
        history = part(state, "history")
        self._history = {name: number(history, name) for name in history}
        self._refused += known(checkpoint, "refused")
        self.saved = self.reader.position

    def _told(self, checkpoint: Checkpoint) -> str:
        calls, spent, refused = self.total()
        changed = "" if checkpoint.config == self._assembly.config else "; prices or thresholds are others from here on"
        return (
            f"restored   {calls} calls, {usd(spent)}, {refused} lines quarantined;"
            f" going on at byte {self.reader.position} of {self._source.path}{changed}"
        )


def known(checkpoint: Checkpoint, name: str) -> int:
    """A number that a checkpoint says. Raises BadCheckpoint."""
    if name not in checkpoint.numbers:
        raise BadCheckpoint(f"it does not say its {name}; it is of a run on something else")
    return checkpoint.numbers[name]
