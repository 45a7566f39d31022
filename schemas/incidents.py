"""Incidents, and the news of what happens to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from schemas.batch import Ms
from schemas.orders import Order
from schemas.policy import Severity
from schemas.signals import Evidence


class IncidentState(StrEnum):
    """The life of an incident; the transitions are in actions/incidents.py."""

    OPEN = "open"
    ACTED = "acted"
    RESOLVED = "resolved"


@dataclass(slots=True)
class Incident:
    """Episodes that belong together. `told` is the severity that people were last told; `applies` counts throttles.

    `heard_at` is when a signal last spoke of it, `partition` whose signal that was, `reverted_at` when the last throttle
    was taken back, `quiet_panes` how many panes of its partition began quiet since, `pane` the start of the newest of
    those that was looked at.
    """

    id: str
    family: str
    kind: str
    tenant: str
    key_id: str
    opened_at: Ms
    heard_at: Ms
    evidence: Evidence
    severity: Severity
    holds: tuple[str, ...] = ()
    partition: int = 0
    state: IncidentState = IncidentState.OPEN
    told: Severity | None = None
    episodes: list[str] = field(default_factory=list)
    applies: int = 0
    human_told: bool = False
    reverted_at: Ms | None = None
    quiet_panes: int = 0
    pane: Ms = 0
    resolved_at: Ms | None = None


What = Literal[
    "incident_opened",
    "incident_reopened",
    "incident_resolved",
    "notified",
    "throttle_proposed",
    "throttle_applied",
    "throttle_renewed",
    "throttle_reverted",
    "throttle_expired",
    "throttle_failed",
    "delivery_failed",
    "human_needed",
    "stopped",
    "released",
    "paused",
    "resumed",
    "disk_failing",
    "disk_well",
]


@dataclass(frozen=True, slots=True)
class News:
    """One thing that happened, as it was then; `said` is for people."""

    at: Ms
    what: What
    said: str
    incident: Incident | None = None
    order: Order | None = None
