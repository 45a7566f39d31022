"""The journal of `burnguard run`: what its intake takes is on disk, in order, before anybody is answered."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from schemas.batch import Ms
from schemas.snapshot import Snapshot
from stream import metrics
from stream.checkpoint import Checkpoint
from stream.checkpoint_file import sync_folder
from stream.duty import wall
from stream.partition import Away
from stream.passing import Outgoing
from stream.progress import known
from stream.quarantine import QuarantineFile
from stream.sources import BLOCK_BYTES, BrokenFile

SEGMENT_BYTES = 64 << 20
"""A segment of at least so many bytes is followed by another."""
Troubled = Callable[[OSError | None], None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who waits until these records are on disk."""

    records: Sequence[Outgoing]
    safe: asyncio.Future[None]


class Journal:
    """A folder of NDJSON segments, each named by the offset of its first byte in the whole; one process at a time has it.

    As a Sink it keeps calls with the time of their receipt (`arrival_ts`, never back), and lists what was refused.
    Many deliveries share one fsync. One that fails leaves nothing, and `troubled` hears of it, and of the next that does not.
    """

    def __init__(self, path: Path, quarantine: QuarantineFile, troubled: Troubled) -> None:
        """Raises BrokenFile where another process has it, and OSError."""
        self.path = path
        self.begun = wall()
        self.grown = asyncio.Event()
        self._quarantine = quarantine
        self._troubled = troubled
        self._clock: Ms = 0
        self._waiting: list[Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        path.mkdir(exist_ok=True)
        self._folder = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BrokenFile(f"{path}: another burnguard run writes this journal") from error
        self._firsts = sorted(int(file.stem) for file in path.glob("*.ndjson"))
        self._file: int | None = None
        self._safe = self._end_of_lines()

    def begin(self, position: int) -> int:
        """Go on writing. Returns where to read on: `position`, or behind it where that is gone.

        Raises BrokenFile where something in between is gone, and OSError.
        """
        for first, following in pairwise(self._firsts):
            if self._segment(first).stat().st_size != following - first:
                raise BrokenFile(f"{self._segment(first)}: has not the {following - first} bytes that it had")
        if self._safe < position:  # all that was there is in the checkpoint
            for first in self._firsts:
                self._segment(first).unlink()
            self._firsts, self._safe = [], position
        self._open(self._firsts.pop() if self._firsts else self._safe)
        return max(position, self._firsts[0])

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Returns when all of them are on disk. Raises Away where they are not: then none is there."""
        waiting = Waiting(records, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await waiting.safe

    def read(self, position: int) -> bytes:
        """What is on disk from there on, at most a block; empty where there is no more. Raises BrokenFile, OSError."""
        if position >= self._safe:
            return b""
        first = max(first for first in self._firsts if first <= position)
        with self._segment(first).open("rb") as file:
            file.seek(position - first)
            block = file.read(min(BLOCK_BYTES, self._safe - position))
        if not block:
            raise BrokenFile(f"{self._segment(first)}: its bytes from {position} on are gone")
        return block

    def now(self) -> Ms:
        """A clock that no call received from now on is before; where something is being written, its own."""
        if self._writing is None:
            self._clock = max(self._clock, wall())
        return self._clock

    def forget(self, position: int) -> None:
        """Delete the segments that end there or before."""
        while len(self._firsts) > 1 and self._firsts[1] <= position:
            self._segment(self._firsts[0]).unlink()
            del self._firsts[0]
        metrics.JOURNAL_BYTES.set(self._safe - self._firsts[0])

    def close(self) -> None:
        """Let another process have it."""
        if self._file is not None:
            os.close(self._file)
        os.close(self._folder)

    def marks(self, position: int) -> dict[str, int]:
        return {"journal": self.begun}

    def difference(self, checkpoint: Checkpoint) -> str | None:
        """None: its checkpoint lies beside the segments, and says when the journal was begun."""
        self.begun = known(checkpoint, "journal")
        return None

    def listed(self, quarantine: QuarantineFile, covered: int) -> int:
        return quarantine.rows_from(covered)

    def snapshot(self) -> Snapshot:
        return {}

    def restore(self, snapshot: Snapshot) -> None:
        """Its clock stands in its lines."""

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            self._clock = max(self._clock, wall())
            try:
                self._safe += await asyncio.to_thread(self._write, group, self._clock)
            except OSError as error:
                self._troubled(error)
                for waiting in group:
                    _settle(waiting, Away(str(error)))
            except Exception as error:
                for waiting in group:
                    _settle(waiting, error)
            else:
                self._troubled(None)
                for waiting in group:
                    _settle(waiting, None)
                self.grown.set()
        self._writing = None

    def _write(self, group: Sequence[Waiting], clock: Ms) -> int:
        """All of a group, or nothing of it is there for long. Returns how many bytes of calls. Raises OSError."""
        records = [record for waiting in group for record in waiting.records]
        calls = b"".join(received(record.value, clock) for record in records if record.key is not None)
        if self._safe - self._firsts[-1] >= SEGMENT_BYTES:
            self._open(self._safe)
        try:
            self._cut()
            self._append(calls)
            self._quarantine.add([record.value for record in records if record.key is None])
        except OSError:
            with suppress(OSError):  # then the next write does it, or is no write either
                self._cut()
            raise
        return len(calls)

    def _append(self, lines: bytes) -> None:
        assert self._file is not None
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)

    def _cut(self) -> None:
        """Drop what a write has left that failed."""
        assert self._file is not None
        os.ftruncate(self._file, self._safe - self._firsts[-1])

    def _open(self, first: int) -> None:
        """Write to the segment that begins there, a new one where there is none."""
        file = os.open(self._segment(first), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            sync_folder(self.path)
        except OSError:
            os.close(file)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file = file
        self._firsts.append(first)

    def _end_of_lines(self) -> int:
        """Where the last whole line ends. What is behind it was never acknowledged: it is dropped at the next write."""
        if not self._firsts:
            return 0
        last = self._segment(self._firsts[-1])
        if not last.stat().st_size:
            return self._firsts[-1]
        with last.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            return self._firsts[-1] + lines.rfind(b"\n") + 1

    def _segment(self, first: int) -> Path:
        return self.path / f"{first:020d}.ndjson"


def received(call: bytes, clock: Ms) -> bytes:
    """The line of a call (a JSON object that has fields) that was received then.

    >>> received(b'{"event_id":"e1"}', 1_790_000_000_007)
    b'{"event_id":"e1","arrival_ts":1790000000.007}\\n'
    """
    return b'%b,"arrival_ts":%d.%03d}\n' % (call[:-1], *divmod(clock, 1000))


def _settle(waiting: Waiting, error: Exception | None) -> None:
    if waiting.safe.done():  # its sender has gone
        return
    if error is None:
        waiting.safe.set_result(None)
    else:
        waiting.safe.set_exception(error)
