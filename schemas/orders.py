"""Orders, what leaves for them, and what came back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from schemas.batch import Ms

Verb = Literal["apply", "renew", "revert"]


class OrderState(StrEnum):
    """The life of an order; the transitions are in actions/incidents.py."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    SENT = "sent"
    APPLIED = "applied"
    REVERTED = "reverted"
    EXPIRED = "expired"
    DENIED = "denied"
    FAILED = "failed"


@dataclass(slots=True)
class Order:
    """One action of an incident. `not_after` is the latest first send, `expires_at` the end of the lease (Ms).

    `strength` is the share of the key's calls to refuse. An order whose outcome is unknown counts as applied.
    """

    id: str
    incident: str
    step: int
    action: Literal["notify", "throttle"]
    tenant: str
    key_id: str
    strength: float
    lease: Ms
    created_at: Ms
    not_after: Ms
    expires_at: Ms
    reason: str
    state: OrderState = OrderState.PROPOSED
    applied_at: Ms | None = None
    ended_at: Ms | None = None


@dataclass(slots=True)
class Delivery:
    """One verb of an order on its way (the outbox). `webhook_id` is the same on every attempt.

    `sequence` grows with time, also from one ledger to the next: receivers ignore older ones of a key. It is retried
    until `deadline`.
    """

    webhook_id: str
    order: str
    verb: Verb
    sequence: int
    tenant: str
    key_id: str
    body: str
    due_at: Ms
    deadline: Ms
    attempts: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one attempt. `retry`: the failure may pass; `wait` is what the receiver asked for (Retry-After)."""

    webhook_id: str
    at: Ms
    ok: bool
    retry: bool
    said: str
    wait: Ms = 0
