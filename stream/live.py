"""The live view in a terminal: one readable line for everything that happens."""

from __future__ import annotations

import time
from dataclasses import dataclass

from schemas.batch import NANO
from schemas.incidents import Incident, News
from stream.figures import Totals, ratio

MARKS = {
    "incident_opened": "INCIDENT",
    "incident_reopened": "REOPENED",
    "notified": "NOTIFY",
    "throttle_proposed": "SHADOW",
    "throttle_applied": "THROTTLE",
    "throttle_renewed": "RENEWED",
    "throttle_reverted": "REVERTED",
    "throttle_expired": "EXPIRED",
    "throttle_failed": "FAILED",
    "delivery_failed": "RETRYING",
    "incident_resolved": "RESOLVED",
    "human_needed": "HUMAN",
    "stopped": "STOPPED",
    "released": "RELEASED",
    "paused": "PAUSED",
    "resumed": "GOING ON",
    "disk_failing": "DISK",
    "disk_well": "GOING ON",
}


def line(news: News) -> str:
    """`HH:MM:SS (UTC)  WHAT  what it says`."""
    at = time.strftime("%H:%M:%S", time.gmtime(news.at / 1000))
    return f"{at}  {MARKS[news.what]:<9} {news.said}"


def usd(nano: int) -> str:
    """Nano-dollars as people read them.

    >>> usd(1_234_567_000_000)
    '$1,234.57'
    """
    return f"${nano / NANO:,.2f}"


def stood(totals: Totals, users: float) -> str:
    """How calls went and who was behind them; what no call told is left out.

    >>> stood(Totals(*[0] * 2, 1_204, *[0] * 6, 1_180, 0, 24, *[0] * 11, 800, 200), users=12.3)
    '1,204 calls, 2 % failed, 25 % of input cached, some 12 users'
    """
    tried_again = ratio(totals.retries, totals.calls) or None
    shares = (
        (totals.success, "failed", True),
        (tried_again, "tried again", False),
        (totals.prefix_share, "of input cached", False),
    )
    told = [f"{100 * (1 - share if rest else share):.0f} % {what}" for share, what, rest in shares if share is not None]
    return ", ".join([f"{totals.calls:,} calls", *told, *([f"some {users:.0f} users"] if users else [])])


class Stories:
    """What each incident came to: seconds to notice, dollars over normal, dollars that the throttle stopped."""

    def __init__(self) -> None:
        self._stories: dict[str, Story] = {}

    def hear(self, news: News) -> None:
        """Remember what the summary needs."""
        if news.incident is None:
            return
        story = self._stories.setdefault(news.incident.id, Story(news.incident))
        story.incident = news.incident
        order = news.order
        if order is not None and news.what == "throttle_reverted" and order.applied_at and order.ended_at:
            hours = (order.ended_at - order.applied_at) / 3_600_000
            story.stopped += story.usd_per_hour * order.strength * hours
        elif news.what == "throttle_applied":
            evidence = news.incident.evidence
            story.usd_per_hour = evidence.usd_so_far * 3_600_000 / max(news.at - evidence.since, 1)

    def told(self) -> list[str]:
        """One line an incident."""
        return [story.line() for story in self._stories.values()]


@dataclass(slots=True)
class Story:
    """`stopped` assumes that the burn would have gone on at its mean rate for as long as the throttle was on."""

    incident: Incident
    usd_per_hour: float = 0.0
    stopped: float = 0.0

    def line(self) -> str:
        i = self.incident
        noticed = (i.opened_at - i.evidence.since) / 1000
        return (
            f"{i.kind} of {i.tenant}/{i.key_id}: noticed after {noticed:.0f} s, ${i.evidence.usd_so_far:,.2f} over normal"
            f" spent, about ${self.stopped:,.2f} stopped (at its mean rate, while throttled)"
        )
