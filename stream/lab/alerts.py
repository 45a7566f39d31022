"""An alert: what leaves for people or machines, as `alerts.jsonl` has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.policy import Severity


@dataclass(frozen=True, slots=True)
class Alert:
    """A first notification, a rise in severity, or a first apply, `at` epoch seconds; `key_id` `*` is the whole tenant."""

    at: float
    incident: str
    kind: str
    severity: Severity
    tenant: str
    key_id: str
    action: Literal["notify", "downgrade", "throttle", "block", "rotate"]
    usd_at_risk: float
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        return self.action != "notify"
