"""The file of tokens, read again when it has changed, so that they are exchanged and revoked without a restart."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import structlog

from schemas.documents import DocumentError
from schemas.producers import Producer, Producers
from stream import metrics
from stream.documents import read_document

LOOK_S = 1.0
"""The file is looked at for whoever sends, but not more often than that."""
log = structlog.get_logger()


class Holders(Protocol):
    """Who may send."""

    def holder(self, token: str) -> Producer | None:
        """Whose token it is, None where it is nobody's."""
        ...


class Tokens:
    """The producers of a file as it is now; while it is broken, as it was before. Raises DocumentError at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stands = self._looked_like()
        self._producers = read_document(path, Producers)
        self._looked = time.monotonic()

    def holder(self, token: str) -> Producer | None:
        """Whose token it is, None where it is nobody's or was revoked LOOK_S ago."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._look()
        return self._producers.holder(token)

    def _look(self) -> None:
        self._looked = time.monotonic()
        stands = self._looked_like()
        if stands == self._stands:
            return
        self._stands = stands
        try:
            self._producers = read_document(self._path, Producers)
        except DocumentError as error:
            metrics.TOKENS_BROKEN.set(1)
            log.error("tokens cannot be read, those from before hold", reason=str(error))
        else:
            metrics.TOKENS_BROKEN.set(0)
            log.info("tokens read again", producers=len(self._producers.root))

    def _looked_like(self) -> tuple[int, int, int] | None:
        """Another where the file is another, None where it is not there."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
