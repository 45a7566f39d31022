"""Delivery: what is due leaves, is signed, and its receipt comes back. The only loop that talks to receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

import aiohttp

from actions.webhook import Guard, post, session, signed
from schemas.batch import Ms
from schemas.orders import Delivery, Receipt


class Outbox(Protocol):
    """Where deliveries come from and receipts go; the responder."""

    def due(self, now: Ms) -> list[Delivery]: ...
    def claim(self, delivery: Delivery, now: Ms) -> bool: ...
    def settle(self, receipt: Receipt) -> None: ...


class Courier:
    """Sends each due delivery in a task of its own, so that one receiver that hangs holds up nothing else."""

    def __init__(self, outbox: Outbox, url: str, secrets: Sequence[str], guard: Guard, clock: Callable[[], Ms]) -> None:
        self._outbox = outbox
        self._url = url
        self._secrets = secrets
        self._guard = guard
        self._clock = clock
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._client: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Courier:
        self._client = session(self._guard)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def start_due(self) -> None:
        """Start an attempt of everything that is due and not under way. Raises what a finished attempt raised."""
        for webhook_id, task in list(self._under_way.items()):
            if task.done():
                del self._under_way[webhook_id]
                task.result()
        for delivery in self._outbox.due(self._clock()):
            if delivery.webhook_id not in self._under_way:
                self._under_way[delivery.webhook_id] = asyncio.create_task(self._attempt(delivery))

    async def _attempt(self, delivery: Delivery) -> None:
        now = self._clock()
        if not self._outbox.claim(delivery, now):
            return
        assert self._client is not None
        receipt = await post(self._client, self._url, delivery, signed(delivery, self._secrets, now), now)
        self._outbox.settle(receipt)
