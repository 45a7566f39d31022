"""A checkpoint as one file: a pointer on the first line, then the blob. It is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.snapshot import BadCheckpoint
from stream.checkpoint import Buffer, Checkpoint, Pointer, compress, unpack

LONGEST_POINTER = 1_000


class CheckpointFile:
    """The newest checkpoint of the one source of a ledger. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0

    def write(self, packed: memoryview) -> None:
        """Put it in the place of the one before: when this returns it survives a power cut, until then the old one does."""
        self._number += 1
        blob = bytes(compress(packed))
        pointer = Pointer.to([blob], generation=0, number=self._number, first=0)
        fresh = self.path.with_name(f"{self.path.name}.new")
        try:
            with fresh.open("wb") as file:
                file.write(pointer.to_metadata().encode() + b"\n")
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            fresh.unlink(missing_ok=True)  # a disk that is full has better use for its bytes
            raise
        fresh.replace(self.path)
        sync_folder(self.path.parent)

    def read(self, buffer: Buffer) -> Checkpoint | None:
        """The checkpoint, None where there is none. Its arrays lie in `buffer`. Raises BadCheckpoint."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        line, newline, blob = content.partition(b"\n")
        if not newline or len(line) > LONGEST_POINTER:
            raise BadCheckpoint("its first line is not a pointer")
        pointer = Pointer.read(line.decode(errors="replace"))
        checkpoint = unpack([blob], pointer, buffer)
        self._number = pointer.number
        return checkpoint

    def drop(self) -> bool:
        """Forget it. Returns whether there was one."""
        there = self.path.exists()
        self.path.unlink(missing_ok=True)
        return there


def sync_folder(folder: Path) -> None:
    """A new name in a folder is safe when the folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
