"""Usage events of the contract itself: one, a JSON array of them, or NDJSON."""

from __future__ import annotations

from schemas.adapters.reading import Event, Item, Reading, items, read, whose
from schemas.adapters.who import Who
from schemas.usage import UsageEvent

WHO = Who(tenant_from=("tenant",), key_from=("key_id",))
FIELDS = frozenset(UsageEvent.model_fields) - {"arrival_ts", "origin_tenant"}
"""What is taken as it is; `origin_tenant` only from where `Who` says, `arrival_ts` is for files."""


def calls(body: bytes, who: Who, now: float) -> Reading:
    """The events, without the fields that are none of ours."""
    return read(items(body), lambda item: event(item, who))


def event(item: Item, who: Who) -> Event:
    """One event. Raises Refused where neither it nor `who` says whose it is."""
    found = {name: value for name, value in item.items() if name in FIELDS}
    return whose(item, who, found) | {"user_id": found.get("user_id")}
