"""The throttle: what its webhook says."""

from __future__ import annotations

import msgspec

from schemas.incidents import Incident
from schemas.orders import Order, Verb


def webhook_body(order: Order, verb: Verb, sequence: int, incident: Incident, runbooks: str) -> str:
    """The JSON body of one delivery (design: contracts); `expires_at` in epoch seconds."""
    body = {
        "order": order.id,
        "sequence": sequence,
        "incident": incident.id,
        "verb": verb,
        "action": order.action,
        "tenant": order.tenant,
        "key_id": order.key_id,
        "parameters": {"strength": order.strength},
        "reason": order.reason,
        "evidence": incident.evidence,
        "expires_at": order.expires_at / 1000,
        "runbook": f"{runbooks}{incident.kind}.md",
    }
    return msgspec.json.encode(body).decode()
