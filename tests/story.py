"""A responder told a story in time: signals and panes in, what a real receiver felt out."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

from actions.ledger import Happening, Ledger
from schemas.batch import SLICE, Ms
from schemas.directory import Directory
from schemas.orders import Delivery, Receipt
from schemas.policy import Policy
from schemas.signals import Contribution, Evidence, Phase, Signal, identity
from stream.responder import Failpoint, Responder, no_failpoint

T0: Ms = 1_790_000_000_000
KEY = ("acme", "key-1")
ARMED = Policy.model_validate(
    {
        "version": 1,
        "rules": [
            {
                "name": "stop",
                "match": {"severity": "page"},
                "do": ["notify", {"throttle": {"strength": 0.9, "lease": "60s"}}],
                "armed": True,
            },
            {"name": "tell", "match": {}, "do": ["notify"]},
        ],
    }
)


def signal(at: Ms, phase: Phase = "open", started: Ms = T0, key: tuple[str, str] = KEY, **evidence: object) -> Signal:
    """A page-worthy burn of $600/h, unless said otherwise."""
    values: dict[str, object] = {
        "observed": 10.0,
        "expected": 0.1,
        "window": 60_000,
        "since": started,
        "usd_per_hour": 600.0,
        "usd_so_far": 10.0,
        "hot_panes": 6,
        "learning": None,
        "guessed_share": 0.0,
        "contributions": (Contribution("1 min over the mean", 10.0, 0.1, "USD"),),
        "known_for": 30 * 86_400_000,
        "shortest": 60_000,
    }
    return Signal(
        id=identity("spend_spike", *key, started, phase, at),
        kind="spend_spike",
        phase=phase,
        episode=identity("spend_spike", *key, started),
        tenant=key[0],
        key_id=key[1],
        at=at,
        started=started,
        evidence=Evidence(**{**values, **evidence}),  # type: ignore[arg-type]  # names and types as above
    )


class Hook:
    """A receiver in memory with the bundled receiver's rules; `answer` may say something else than 200."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.newest: dict[tuple[str, str], int] = {}
        self.effects: list[tuple[str, str]] = []
        self.throttled: dict[tuple[str, str], Ms] = {}
        self.posts: list[tuple[Ms, str, str]] = []
        self.answer: Callable[[Delivery, Ms], Receipt] = lambda d, now: Receipt(d.webhook_id, now, True, False, "HTTP 200")
        self.hears = True

    def post(self, delivery: Delivery, expires_at: Ms, now: Ms) -> Receipt:
        self.posts.append((now, delivery.verb, delivery.webhook_id))
        entity = (delivery.tenant, delivery.key_id)
        if self.hears and delivery.webhook_id not in self.known and delivery.sequence >= self.newest.get(entity, 0):
            self.known.add(delivery.webhook_id)
            self.newest[entity] = delivery.sequence
            self.effects.append((delivery.verb, delivery.order))
            if delivery.verb == "revert":
                self.throttled.pop(entity, None)
            else:
                self.throttled[entity] = expires_at
        return self.answer(delivery, now)


class Story:
    """Time goes on in seconds after T0; `restart` drops everything but the ledger."""

    def __init__(self, name: str, policy: Policy = ARMED, directory: Directory | None = None, now: Ms = T0) -> None:
        self.name, self.policy, self.directory = name, policy, directory or Directory()
        self.hook = Hook()
        self.now = now
        self.told: list[tuple[float, str]] = []
        self.start()

    def start(self, failpoint: Failpoint = no_failpoint) -> None:
        self.ledger = Ledger(self.name)
        self.responder = Responder(
            self.ledger,
            self.policy,
            self.directory,
            arming=lambda rule: rule.armed,
            jitter=random.Random(1),
            now=self.now,
            failpoint=failpoint,
        )

    def restart(self, failpoint: Failpoint = no_failpoint) -> None:
        self.ledger.close()
        self.start(failpoint)

    def close(self) -> None:
        self.ledger.close()

    def says(self, verb: Happening) -> None:
        """What a person says, from another process."""
        with closing(Ledger(self.name)) as person:
            person.happen(verb, self.now)

    def hear(self, *signals: Signal) -> None:
        self.responder.hear(signals, self.now)
        self.deliver()

    def deliver(self) -> None:
        for delivery in self.responder.due(self.now):
            if self.responder.claim(delivery, self.now):
                order = self.responder._book.orders[delivery.order]
                self.responder.settle(self.hook.post(delivery, order.expires_at, self.now))
        self.told += [((n.at - T0) / 1000, n.what) for n in self.responder.news()]

    def second(self) -> None:
        """One second: leases, deliveries, the kill switch."""
        self.now += 1_000
        self.responder.watch(self.now)
        self.responder.tick(self.now)
        self.deliver()

    def play(self, seconds: int, burns: Callable[[float], bool] = lambda at: False) -> None:
        """So many seconds with a closed pane every 5; `burns(second)` says whether the key burned in it."""
        for _ in range(seconds):
            self.second()
            if self.now % SLICE == 0:
                end = (self.now - T0) // 1000
                self.pane(end, [KEY] if burns(end - SLICE / 1000) else [])

    def pane(self, end: int, burning: list[tuple[str, str]]) -> None:
        """The pane that ended `end` seconds after T0 has closed."""
        self.responder.pane(0, T0 + end * 1000 - SLICE, burning, self.now)
        self.deliver()

    def whats(self) -> list[str]:
        return [what for _, what in self.told]
