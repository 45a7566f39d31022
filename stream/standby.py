"""`burnguard responder`: one member of the responders' group is elected and does its duty, the others stand by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress

import structlog

from actions.ledger import Busy, Deposed, Ledger
from schemas.directory import Directory
from schemas.policy import Policy
from stream.duty import TICK_S, Duty, Say, wall
from stream.hearing import Hearing
from stream.settings import KafkaSettings, Settings
from stream.transport import Seat

log = structlog.get_logger()


class Standby:
    """A member of the group. It opens the ledger only when it is elected.

    Throttles stay on when it stops: whoever is elected next takes them back, and else the receiver at their lease's end.
    """

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        policy: Policy,
        directory: Directory,
        settings: Settings,
        kafka: KafkaSettings,
        say: Say,
    ) -> None:
        settings.check(policy)
        self._ledger = ledger
        self._policy = policy
        self._directory = directory
        self._settings = settings
        self._kafka = kafka
        self._say = say

    async def go(self) -> None:
        """Stand by and do what is our turn, until cancelled. Raises Unreachable."""
        while True:
            async with Seat(self._kafka) as seat:
                try:
                    await self._sit(seat)
                except (Deposed, Busy) as reason:
                    # The group may still count on us: sit down afresh, so that it elects again.
                    log.warning("deposed", reason=str(reason))

    async def _sit(self, seat: Seat) -> None:
        log.info("standby")
        while True:
            if seat.term is not None:
                await self._hold_office(seat, seat.term)
                log.info("standby")
            await seat.fetch(TICK_S)

    async def _hold_office(self, seat: Seat, term: int) -> None:
        with closing(self._ledger()) as ledger:
            duty = Duty(ledger, self._policy, self._directory, self._settings, self._say)
            hearing = Hearing(duty, ledger, self._kafka.usage_topic)
            log.info("elected", epoch=ledger.epoch, position=hearing.position)
            try:
                async with duty:
                    await self._respond(seat, term, duty, hearing)
            except asyncio.CancelledError:
                _leave(ledger, hearing)
                raise
            _leave(ledger, hearing)

    async def _respond(self, seat: Seat, term: int, duty: Duty, hearing: Hearing) -> None:
        """Until our term is over."""
        start = hearing.begin(*await seat.bounds())
        if seat.term == term:
            seat.seek(start)
        while seat.term == term:
            hearing.take(await seat.fetch(TICK_S), wall())
            duty.turn()


def _leave(ledger: Ledger, hearing: Hearing) -> None:
    """Keep what was read, and say that nobody lives here any more; whoever has deposed us has said otherwise."""
    with suppress(Deposed, Busy):
        hearing.keep(wall())
        ledger.resign()
        log.info("resigned", position=hearing.position)
