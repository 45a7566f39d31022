"""The file of refused lines, beside the ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from schemas.quarantine import Quarantined


class QuarantineFile:
    """One JSON row for every refused line; `kept` counts those of this run. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.kept = 0
        self._path = path

    def keep(self, rows: list[Quarantined]) -> None:
        """Append the rows, and take them out of `rows`."""
        if rows:
            with self._path.open("ab") as file:
                file.writelines(row.to_json() + b"\n" for row in rows)
            self.kept += len(rows)
            rows.clear()

    def add(self, rows: Sequence[bytes]) -> None:
        """On disk, or none of them."""
        if not rows:
            return
        size = self.size()
        try:
            with self._path.open("ab") as file:
                file.writelines(row + b"\n" for row in rows)
            self.sync()
        except OSError:
            self.cut(size)
            raise
        self.kept += len(rows)

    def rows_from(self, size: int) -> int:
        """How many rows there are behind the first `size` bytes; half a one, of a process that was killed, is dropped."""
        if self.size() <= size:
            return 0
        with self._path.open("rb") as file:
            file.seek(size)
            rows = file.read()
        self.cut(size + rows.rfind(b"\n") + 1)
        return rows.count(b"\n")

    def size(self) -> int:
        """In bytes."""
        return self._path.stat().st_size if self._path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop what came after the first `size` bytes: those lines will be read, and refused, again."""
        if self.size() > size:
            os.truncate(self._path, size)

    def sync(self) -> None:
        """On disk, what was kept so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
