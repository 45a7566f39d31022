"""Which rule of the policy decides about an incident."""

from __future__ import annotations

from schemas.incidents import Incident
from schemas.policy import SEVERITIES, Match, Policy, Rule, Severity


def worse(one: Severity, other: Severity | None) -> bool:
    """Is `one` worse than `other`? Anything is worse than nothing."""
    return other is None or SEVERITIES.index(one) > SEVERITIES.index(other)


def decide(policy: Policy, incident: Incident) -> Rule | None:
    """The first rule that matches, None where none does."""
    return next((rule for rule in policy.rules if _matches(rule.match, incident)), None)


def _matches(match: Match, incident: Incident) -> bool:
    return (
        (match.kind is None or incident.kind in match.kind)
        and (match.severity is None or not worse(match.severity, incident.severity))
        and (match.usd_per_hour is None or incident.evidence.usd_per_hour >= match.usd_per_hour)
        and (match.tenant is None or incident.tenant in match.tenant)
        and (match.key_id is None or incident.key_id in match.key_id)
    )
