"""The policy: what the operator wants done about which incidents."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from schemas.batch import Ms
from schemas.signals import FAMILIES

Severity = Literal["notice", "ticket", "page"]
SEVERITIES: tuple[Severity, ...] = ("notice", "ticket", "page")
"""From the mildest."""
UNITS: dict[str, Ms] = {"s": 1_000, "m": 60_000, "h": 3_600_000}


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _kind(value: str) -> str:
    if value not in FAMILIES:
        raise ValueError(f"unknown kind; allowed: {', '.join(FAMILIES)}")
    return value


def _lease(value: Any) -> Ms:
    found = re.fullmatch(r"([0-9]{1,6})([smh])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a lease is a number and s, m or h, such as 15m")
    lease = int(found[1]) * UNITS[found[2]]
    if not 20_000 <= lease <= 24 * UNITS["h"]:
        raise ValueError("a lease lasts from 20s to 24h")
    return lease


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Kinds = Annotated[tuple[Annotated[str, AfterValidator(_kind)], ...], Field(min_length=1), BeforeValidator(_listed)]
Names = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]


class Match(_Closed):
    """Which incidents: all conditions that are given must hold; severity and $/h over normal are at-least."""

    kind: Kinds | None = None
    severity: Severity | None = None
    usd_per_hour: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    tenant: Names | None = None
    key_id: Names | None = None


class Throttle(_Closed):
    """Refuse `strength` of a key's calls (1 = all) for as long as the lease lasts."""

    strength: float = Field(strict=True, gt=0, le=1)
    lease: Annotated[Ms, BeforeValidator(_lease)]


class Notify(_Closed):
    """Tell people."""


class Step(_Closed):
    """One thing to do, written `notify` or `throttle: {strength, lease}`."""

    notify: Notify | None = None
    throttle: Throttle | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_one_action(cls, value: Any) -> Any:
        if value == "notify":
            return {"notify": {}}
        if not isinstance(value, dict) or len(value) != 1 or None in value.values():
            raise ValueError("a step is one of: notify; throttle: {strength, lease}")
        return value

    @property
    def action(self) -> Literal["notify", "throttle"]:
        return "notify" if self.throttle is None else "throttle"


class Rule(_Closed):
    """What to do about the incidents that match; only an armed rule's throttle leaves."""

    name: str = Field(min_length=1, max_length=128)
    match: Match
    do: tuple[Step, ...] = Field(min_length=1)
    armed: StrictBool = False


class Policy(_Closed):
    """Rules, read from the top: the first that matches an incident decides."""

    version: Literal[1]
    rules: tuple[Rule, ...] = Field(min_length=1)

    @field_validator("rules")
    @classmethod
    def _names_are_unique(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two rules are named {twice!r}")
        return rules
