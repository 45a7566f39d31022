"""What passes through the intake: records of others' in, records of ours out, and what both ends promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.batch import Ms


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record for a topic of ours; calls have their tenant as key."""

    topic: str
    key: bytes | None
    value: bytes


class Topics(Protocol):
    """What the topics are called that calls and rows of what was refused go to."""

    @property
    def usage_topic(self) -> str: ...
    @property
    def quarantine_topic(self) -> str: ...


class Sink(Protocol):
    """Where records go."""

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Returns when all of them are safe. Raises Away where that is not known in time: some may be there."""
        ...


@dataclass(frozen=True, slots=True)
class Foreign:
    """One record of a topic of others'; its clock is when a call was whose source does not say."""

    partition: int
    offset: int
    clock: Ms
    value: bytes | None


class Topic(Protocol):
    """A topic of others', read in a group of ours."""

    async def fetch(self, timeout_s: float) -> list[Foreign]:
        """What has come, at the latest after `timeout_s`."""
        ...

    def end(self, partition: int) -> int | None:
        """The high watermark as last heard."""
        ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Go on there, by partition, whoever reads on. Raises Fenced where the group has moved on, and Away."""
        ...
