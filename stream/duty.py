"""What whoever responds does beside hearing: deliver, let leases end, obey the kill switch, tell people."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from types import TracebackType

from actions.deliver import Courier, Outbox
from actions.ledger import Ledger
from actions.webhook import Guard
from schemas.batch import Ms
from schemas.directory import Directory
from schemas.policy import Policy
from stream.live import Stories, line, stood, usd
from stream.readings import Whose
from stream.responder import Responder
from stream.settings import Settings
from stream.tenants import TenantMeters
from stream.windows import HOUR

TICK_S = 0.25
WATCH: Ms = 1_000
FORGET: Ms = 60_000
LAST_DELIVERIES_S = 20.0
Say = Callable[[str], None]


def wall() -> Ms:
    """Wall time in Ms."""
    return time.time_ns() // 1_000_000


def courier(settings: Settings, outbox: Outbox) -> Courier | None:
    """The courier for the configured receiver, None where there is none."""
    if settings.webhook_url is None:
        return None
    return Courier(outbox, settings.webhook_url, settings.secrets(), Guard(settings.webhook_allow_networks), wall)


class Duty:
    """From here on this process is the ledger's responder, until another takes the ledger: then everything raises Deposed.

    As a context it delivers; what is under way at its end has an unknown outcome, and is sent again by whoever is next.
    """

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        directory: Directory,
        settings: Settings,
        say: Say,
        tenants: TenantMeters | None = None,
        patient: bool = False,
    ) -> None:
        self.responder = Responder(
            ledger,
            policy,
            directory,
            arming=lambda rule: rule.armed,
            jitter=random.Random(),
            now=wall(),
            runbooks=settings.runbook_url,
            patient=patient,
        )
        self.tenants = tenants or TenantMeters()
        self._courier = courier(settings, self.responder)
        self._stories = Stories()
        self._say = say
        self._usage_days = settings.usage_days
        self._watched: Ms = 0
        self._forgot: Ms = 0

    async def __aenter__(self) -> Duty:
        if self._courier is not None:
            await self._courier.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._courier is not None:
            await self._courier.__aexit__(kind, error, at)

    def turn(self) -> None:
        """To be called every TICK_S."""
        now = wall()
        if now - self._watched >= WATCH:
            self.responder.watch(now)
            self._watched = now
        if now - self._forgot >= FORGET:
            self.responder.forget_usage(self._usage_days, now)
            self._forgot = now
        self.responder.tick(now)
        if self._courier is not None:
            self._courier.start_due()
        self.tell()

    async def keep_turning(self) -> None:
        """For whoever has something else to do meanwhile; until cancelled."""
        while True:
            self.turn()
            await asyncio.sleep(TICK_S)

    async def take_back(self) -> None:
        """Nobody watches any more, so nothing may stay throttled. Somebody must keep turning."""
        self.responder.take_all_back(wall())
        until = time.monotonic() + LAST_DELIVERIES_S
        while self.responder.out() and time.monotonic() < until:
            await asyncio.sleep(TICK_S)
        for order in self.responder.out():
            self._say(f"NOT TAKEN BACK: {order.action} of {order.tenant}/{order.key_id}; it ends by itself at its lease")

    def tell(self) -> None:
        """Say what happened since the last time."""
        for news in self.responder.news():
            self._stories.hear(news)
            self._say(line(news))

    def sum_up(self) -> None:
        """Say who spent most, how calls went, and what every incident came to."""
        for tenant, spent in list(self.tenants.spent(HOUR).items())[:5]:
            self._say(f"           {tenant}: {usd(spent)} in the last hour; {self._stood(Whose(tenant))}")
        self._say(f"           everybody: {self._stood(Whose(None))}")
        for story in self._stories.told():
            self._say(f"           {story}")

    def _stood(self, whose: Whose) -> str:
        """Of this hour and the one before."""
        readings, now = self.tenants.readings, self.tenants.clock
        since = time.strftime("%H:%M", time.gmtime((now // HOUR - 1) * HOUR // 1000))
        return f"{stood(readings.totals(whose, HOUR, now), readings.distinct(whose, HOUR, now)['users'])} since {since}"
