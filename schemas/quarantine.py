"""What is kept of a line that was refused: why and where, never its bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One refused line. `position` is its Kafka offset or byte offset, `line` its number from 0, `hash` BLAKE2b-64 of it."""

    reason: str
    field: str
    partition: int
    position: int
    line: int
    length: int
    hash: str

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)


def fingerprint(line: bytes) -> str:
    """BLAKE2b-64 (RFC 7693) of the bytes, in hex."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()
