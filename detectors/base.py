"""The shape of a detector that judges panes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.batch import I32, Pane
from schemas.signals import Signal
from schemas.snapshot import Snapshot

Names = Sequence[tuple[str, ...]]
"""Row of a vocabulary -> what it stands for; keys: (tenant, key_id)."""


class PaneDetector(Protocol):
    """Judges every closed pane: scores, then learns (clipped). Owns its columns, one row per key."""

    @property
    def name(self) -> str:
        """Under which name its columns stand in a checkpoint: its file's."""
        ...

    @property
    def config(self) -> str:
        """The thresholds that it judges by, as text."""
        ...

    def judge(self, pane: Pane, keys: Names) -> list[Signal]:
        """What the pane shows. Callers must hand over the slices of every key in time order, each once."""
        ...

    def watched(self) -> I32:
        """Keys with an open episode: they are judged in every slice of their tenant, spent or not."""
        ...

    def burning(self) -> I32:
        """Keys whose open episode burned in their last slice."""
        ...

    def forget(self, rows: I32) -> None:
        """These rows are as if no key had ever been in them. None of them is watched."""
        ...

    def snapshot(self) -> Snapshot:
        """Its columns as records of named fields, so that a column added later starts at its default."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, an empty one too; columns that are no longer known are dropped. Raises BadCheckpoint."""
        ...
