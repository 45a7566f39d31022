"""What the directory adds to a signal: how bad it is, and why nothing but a notification may follow."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.batch import Ms
from schemas.directory import Directory
from schemas.policy import Severity
from schemas.signals import FAMILIES, OTHER_KEYS, Signal

PAGE_USD_PER_HOUR, TICKET_USD_PER_HOUR = 100.0, 50.0
HOT_PANES = 2
GUESSED_SHARE = 0.5
NEW_S = 86_400.0
WHOLE_DAY: Ms = 23 * 3_600_000
"""A history of a day shows about so much of a key's life."""
JUMP: Ms = 5 * 60_000
"""A burn that somebody starts shows in a window as short as this; what only longer ones show has grown."""


@dataclass(frozen=True, slots=True)
class Context:
    """`holds` are the reasons why no order may leave; empty means that the policy decides."""

    severity: Severity
    holds: tuple[str, ...]


def in_context(signal: Signal, directory: Directory) -> Context:
    """Severity follows money and evidence; unknown, new and declared things are told, never acted on."""
    if FAMILIES[signal.kind] == "data":
        small = signal.kind == "price_mismatch" and signal.evidence.usd_per_hour < TICKET_USD_PER_HOUR
        return Context("notice" if small else "ticket", ("it is about what we are told, not about spend",))
    evidence = signal.evidence
    at_s = signal.at / 1000
    windows = directory.windows_at(signal.tenant, signal.key_id, at_s)
    tenant, key = directory.tenant(signal.tenant), directory.key(signal.tenant, signal.key_id)
    born = [known.created_at for known in (tenant, key) if known is not None and known.created_at is not None]
    reasons = {
        "it is about many keys, for which there was no room": signal.key_id == OTHER_KEYS,
        "the baseline is still learning": evidence.learning is not None,
        "its baseline has not seen a whole day": evidence.known_for is None or evidence.known_for < WHOLE_DAY,
        "it grew, it did not jump": evidence.shortest is None or evidence.shortest > JUMP,
        "the price of its model is not known": evidence.guessed_share > GUESSED_SHARE,
        "it burned in one pane only": evidence.hot_panes < HOT_PANES,
        "a declared window covers it": bool(windows),
        "the tenant or key is less than a day old": any(at_s - created < NEW_S for created in born),
        "the key replaces another": key is not None and key.replaces is not None,
    }
    severity: Severity = "notice"
    if not windows and evidence.usd_per_hour >= TICKET_USD_PER_HOUR:
        settled = evidence.learning is None and evidence.hot_panes >= HOT_PANES
        severity = "page" if settled and evidence.usd_per_hour >= PAGE_USD_PER_HOUR else "ticket"
    return Context(severity, tuple(reason for reason, holds in reasons.items() if holds))
