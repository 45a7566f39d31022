"""The life of incidents and orders.

Rule 1: everything that changes a state lives in this file, and every change goes through the two tables below.
Rule 2: an order whose outcome is not known counts as applied: it is taken back like one that was.
Rule 3: while a throttle is on, quiet means nothing (the throttle makes it quiet). Its lease ends, it is taken back, and
two panes without a burn resolve the incident (when the third is heard of); a burn applies it again for twice as long,
and after the third time a human decides.
Rule 4: nothing here reads a clock or does IO; what must be written is in `changes`, what people should know in `news`.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from actions.context import Context
from actions.decide import decide, worse
from actions.throttle import webhook_body
from schemas.batch import Ms
from schemas.incidents import Incident, IncidentState, News, What
from schemas.orders import Delivery, Order, OrderState, Receipt, Verb
from schemas.policy import Policy, Rule, Throttle
from schemas.signals import FAMILIES, Contribution, Signal, identity

INCIDENT_TABLE: dict[IncidentState, dict[str, IncidentState]] = {
    IncidentState.OPEN: {"act": IncidentState.ACTED, "quiet": IncidentState.RESOLVED},
    IncidentState.ACTED: {"taken back": IncidentState.OPEN},
    IncidentState.RESOLVED: {"again": IncidentState.OPEN},
}
ORDER_TABLE: dict[OrderState, dict[str, OrderState]] = {
    OrderState.PROPOSED: {
        "approve": OrderState.APPROVED,
        "lapse": OrderState.EXPIRED,
        "deny": OrderState.DENIED,
        "told": OrderState.APPLIED,
    },
    OrderState.APPROVED: {"send": OrderState.SENT, "lapse": OrderState.EXPIRED},
    OrderState.SENT: {
        "confirm": OrderState.APPLIED,
        "refuse": OrderState.FAILED,
        "taken back": OrderState.REVERTED,
        "give up": OrderState.FAILED,
    },
    OrderState.APPLIED: {"taken back": OrderState.REVERTED, "give up": OrderState.FAILED},
    OrderState.REVERTED: {},
    OrderState.EXPIRED: {},
    OrderState.DENIED: {},
    OrderState.FAILED: {},
}
LIVE = (OrderState.PROPOSED, OrderState.APPROVED, OrderState.SENT, OrderState.APPLIED)
OUT = (OrderState.SENT, OrderState.APPLIED)

FIRST_SEND: Ms = 10 * 60_000
"""A throttle that could not leave within this time after it was decided never leaves (A3)."""
REOPENS: Ms = 15 * 60_000
SILENCE: Ms = 15 * 60_000
"""An open incident that no signal spoke of for so long is over: its `clear` was lost (a burn is said each minute)."""
REVERT_TRIES: Ms = 24 * 3_600_000
LONGEST_WAIT: Ms = 3_600_000
"""A receiver that asks for more patience (Retry-After) is asked again after this."""
MOST_APPLIES = 3
QUIET_PANES = 2
ALL_ON_TIME: Mapping[str, Ms] = MappingProxyType({})
"""No tenant's slices close later than its partition's panes."""
SCHEDULE: tuple[Ms, ...] = (2_000, 10_000, 30_000, 120_000, 300_000)
"""How long to wait at most after each failed attempt; full jitter."""


class IllegalTransition(Exception):
    """A state was asked to change in a way that its table does not know."""


@dataclass(slots=True)
class Changes:
    """What a step changed, to be written in one transaction."""

    incidents: dict[str, Incident] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.incidents or self.orders or self.deliveries)


class Book:
    """All live incidents, orders and deliveries; in memory, authoritative while it runs."""

    def __init__(self, policy: Policy, arming: Callable[[Rule], bool], jitter: random.Random, runbooks: str) -> None:
        self._policy = policy
        self._arming = arming
        self._jitter = jitter
        self._runbooks = runbooks
        self.stopped = False
        self.sequence = 0
        self.incidents: dict[str, Incident] = {}
        self.orders: dict[str, Order] = {}
        self.deliveries: dict[str, Delivery] = {}
        self._orders_of: dict[str, list[Order]] = {}
        self._deliveries_of: dict[str, dict[str, Delivery]] = {}
        self._latest: dict[tuple[str, str, str], Incident] = {}
        self.changes = Changes()
        self.news: list[News] = []

    def load(
        self,
        incidents: Collection[Incident],
        orders: Collection[Order],
        deliveries: Collection[Delivery],
        sequence: int,
    ) -> None:
        """Go on where a ledger stands; `deliveries` are those that are not done."""
        for incident in sorted(incidents, key=lambda i: i.opened_at):
            self._enter(incident)
        for order in orders:
            self._add(order)
        for delivery in deliveries:
            self._send(delivery)
        self.sequence = sequence

    # What is heard

    def observe(self, signal: Signal, context: Context, now: Ms) -> str | None:
        """Take in one signal; returns the incident that it belongs to, None for a `clear` of nothing."""
        incident = self._latest.get((FAMILIES[signal.kind], signal.tenant, signal.key_id))
        if incident is not None and incident.resolved_at is not None and now - incident.resolved_at >= REOPENS:
            incident = None
        if signal.phase == "clear":
            if incident is not None and incident.state is not IncidentState.RESOLVED:
                self._clear(incident, signal, now)
            return incident.id if incident else None
        if incident is None:
            incident = self._open(signal, context, now)
        elif incident.state is IncidentState.RESOLVED:
            self._move(incident, "again")
            incident.resolved_at = None
            self._tell(now, "incident_reopened", f"{_entity(incident)} burns again", incident)
        if signal.episode not in incident.episodes:
            incident.episodes.append(signal.episode)
        incident.evidence = signal.evidence
        incident.heard_at = now
        incident.partition = signal.partition
        incident.holds = context.holds
        if worse(context.severity, incident.severity):
            incident.severity = context.severity
        self._touch(incident)
        self._act(incident, now)
        return incident.id

    def pane(
        self,
        partition: int,
        start: Ms,
        burning: Collection[tuple[str, str]],
        now: Ms,
        behind: Mapping[str, Ms] = ALL_ON_TIME,
    ) -> None:
        """A part of a closed pane, and who burned in it: the watch after a throttle was taken back.

        The pane of a tenant that is `behind` began so much earlier. A burn counts at once. Quiet counts when the next pane
        of the partition is heard of, for only then have all parts of this one been. Panes older than the newest one looked
        at were heard before and change nothing.
        """
        for incident in list(self._latest.values()):
            own = start - behind.get(incident.tenant, 0)
            if incident.partition != partition or not _watched(incident, own):
                continue
            if (incident.tenant, incident.key_id) in burning:
                self._burnt(incident, own, now)
            elif own > incident.pane:
                self._quiet(incident, own, now)

    def tick(self, now: Ms) -> None:
        """Let leases end and proposals lapse."""
        for order in [o for o in self.orders.values() if o.state in LIVE and o.action == "throttle"]:
            if order.state in OUT:
                if now >= order.expires_at and self._pending(order, "revert") is None:
                    self._take_back(order, now)
            elif now >= order.not_after:
                self._drop(order)
                self._end(order, "lapse", now)
                self._tell(now, "throttle_expired", f"{_entity(order)}: the throttle was not sent in time", None, order)
        for incident in [i for i in self.incidents.values() if i.state is IncidentState.OPEN]:
            if now - incident.heard_at >= SILENCE and self._throttle_of(incident) is None:
                self._resolve(incident, max(incident.heard_at + SILENCE, incident.reverted_at or 0))
        for incident in [i for i in self.incidents.values() if i.resolved_at is not None]:
            if incident.resolved_at is not None and now - incident.resolved_at >= REOPENS:
                self._forget(incident)

    def stop(self, now: Ms) -> None:
        """The kill switch (A8): every lease is reverted, no new order until `release`."""
        self.stopped = True
        self.take_all_back(now)
        self._tell(now, "stopped", "no new orders; every throttle is being taken back")

    def release(self, now: Ms) -> None:
        """Undo `stop`."""
        self.stopped = False
        self._tell(now, "released", "orders may leave again")

    def take_all_back(self, now: Ms) -> None:
        """Revert what is out, drop what is not."""
        for order in [o for o in self.orders.values() if o.state in LIVE and o.action == "throttle"]:
            if order.state in OUT:
                if self._pending(order, "revert") is None:
                    self._take_back(order, now)
            else:
                self._drop(order)
                self._end(order, "deny" if order.state is OrderState.PROPOSED else "lapse", now)

    # What leaves

    def due(self, now: Ms) -> list[Delivery]:
        """Deliveries that may be tried now: per key only the oldest that is not done (A12)."""
        first: dict[tuple[str, str], Delivery] = {}
        for delivery in self.deliveries.values():
            entity = (delivery.tenant, delivery.key_id)
            if entity not in first or delivery.sequence < first[entity].sequence:
                first[entity] = delivery
        return [delivery for delivery in first.values() if delivery.due_at <= now]

    def claim(self, delivery: Delivery, now: Ms) -> bool:
        """Note an attempt before it is made; False where it must not be made any more."""
        order = self.orders[delivery.order]
        if delivery.verb != "revert" and (self.stopped or now >= delivery.deadline):
            self.tick(now)
            return False
        if delivery.verb == "apply" and not delivery.attempts and now >= order.not_after:
            self.tick(now)
            return False
        delivery.attempts += 1
        self.changes.deliveries[delivery.webhook_id] = delivery
        if order.state is OrderState.APPROVED:
            self._step(order, "send")
        return True

    def settle(self, receipt: Receipt) -> None:
        """Take in what became of an attempt; the same receipt twice is once."""
        delivery = self.deliveries.get(receipt.webhook_id)
        if delivery is None:
            return
        order = self.orders[delivery.order]
        if receipt.ok:
            self._finish(delivery)
            self._took_effect(order, delivery.verb, receipt.at)
            return
        jittered = round(self._jitter.uniform(0, SCHEDULE[min(delivery.attempts, len(SCHEDULE)) - 1]))
        left = delivery.deadline - 1 - receipt.at
        wait = min(max(receipt.wait, jittered), LONGEST_WAIT, left)
        if receipt.retry and left >= 0:
            delivery.due_at = receipt.at + wait
            self.changes.deliveries[delivery.webhook_id] = delivery
            said = f"{delivery.verb} of {_entity(order)} failed ({receipt.said}); again in {wait / 1000:.0f} s"
            self._tell(receipt.at, "delivery_failed", said, None, order)
            return
        self._finish(delivery)
        self._failed(order, delivery, receipt)

    # How it goes on

    def _open(self, signal: Signal, context: Context, now: Ms) -> Incident:
        family = FAMILIES[signal.kind]
        incident = Incident(
            id=identity(family, signal.tenant, signal.key_id, signal.started),
            family=family,
            kind=signal.kind,
            tenant=signal.tenant,
            key_id=signal.key_id,
            opened_at=now,
            heard_at=now,
            evidence=signal.evidence,
            severity=context.severity,
            holds=context.holds,
            partition=signal.partition,
        )
        self._enter(incident)
        self._tell(now, "incident_opened", f"{signal.kind} of {_entity(incident)}: {_headline(incident)}", incident)
        return incident

    def _clear(self, incident: Incident, signal: Signal, now: Ms) -> None:
        if signal.episode in incident.episodes:
            incident.episodes.remove(signal.episode)
            self._touch(incident)
        if not incident.episodes and incident.state is IncidentState.OPEN and self._throttle_of(incident) is None:
            self._resolve(incident, now)

    def _resolve(self, incident: Incident, now: Ms) -> None:
        self._move(incident, "quiet")
        incident.resolved_at = now
        incident.reverted_at = None
        incident.episodes.clear()
        for order in self._orders_of.get(incident.id, ()):
            if order.state is OrderState.PROPOSED:
                self._end(order, "lapse", now)
        self._tell(now, "incident_resolved", f"{_entity(incident)} is back to normal", incident)

    def _act(self, incident: Incident, now: Ms) -> None:
        """Do what the policy wants, as far as it has not been done."""
        rule = decide(self._policy, incident)
        for step in rule.do if rule is not None else ():
            if step.throttle is None:
                self._notify(incident, now)
            elif rule is not None:
                self._throttle(incident, step.throttle, rule, now)

    def _notify(self, incident: Incident, now: Ms) -> None:
        if not worse(incident.severity, incident.told):
            return
        incident.told = incident.severity
        self._touch(incident)
        order = self._order(incident, "notify", self._steps(incident, "notify"), 0.0, 0, now, "notify")
        self._step(order, "told")
        held = f"; not acted on: {', '.join(incident.holds)}" if incident.holds else ""
        said = f"{incident.severity}: {_entity(incident)} {_at_stake(incident)}{held}"
        self._tell(now, "notified", f"{said}; runbook {self._runbooks}{incident.kind}.md", incident, order)

    def _throttle(self, incident: Incident, throttle: Throttle, rule: Rule, now: Ms) -> None:
        order, armed = self._throttle_of(incident), self._arming(rule)
        if order is not None and not (armed and order.state is OrderState.PROPOSED):
            if order.state is OrderState.APPLIED and 2 * (order.expires_at - now) < order.lease:
                self._renew(order, now)
            return
        step = self._steps(incident, "throttle")
        if self.stopped or incident.holds or (step and not armed):
            return
        if order is not None:
            self._end(order, "lapse", now)
        if incident.applies >= MOST_APPLIES:
            if not incident.human_told:
                incident.human_told = True
                self._touch(incident)
                said = f"{_entity(incident)} burns after {MOST_APPLIES} throttles; a human must decide"
                self._tell(now, "human_needed", said, incident)
            return
        lease = throttle.lease * 2**incident.applies
        reason = f"{incident.kind}: ${incident.evidence.usd_per_hour:,.0f}/h over normal (rule {rule.name})"
        order = self._order(incident, "throttle", step, throttle.strength, lease, now, reason)
        if not armed:
            said = f"{_entity(order)}: would refuse {order.strength:.0%} of its calls (rule {rule.name} is not armed)"
            self._tell(now, "throttle_proposed", said, incident, order)
            return
        incident.applies += 1
        incident.quiet_panes = 0
        self._touch(incident)
        self._step(order, "approve")
        self._deliver(order, "apply", order.expires_at, now)

    def _renew(self, order: Order, now: Ms) -> None:
        if self._pending(order, "renew") is None and self._pending(order, "revert") is None:
            order.expires_at = now + order.lease
            self.changes.orders[order.id] = order
            self._deliver(order, "renew", order.expires_at, now)

    def _take_back(self, order: Order, now: Ms) -> None:
        self._drop(order)
        self._deliver(order, "revert", now + REVERT_TRIES, now)

    def _took_effect(self, order: Order, verb: Verb, at: Ms) -> None:
        incident = self.incidents[order.incident]
        until = f"until {_clock(order.expires_at)}"
        if verb == "apply" and order.state is OrderState.SENT:
            self._step(order, "confirm")
            order.applied_at = at
            self._move(incident, "act")
            said = f"{_entity(order)}: {order.strength:.0%} of its calls refused {until}"
            self._tell(at, "throttle_applied", said, incident, order)
        elif verb == "renew":
            self._tell(at, "throttle_renewed", f"{_entity(order)}: refused {until}", incident, order)
        elif verb == "revert":
            self._end(order, "taken back", at)
            self._watch(incident, at)
            self._tell(at, "throttle_reverted", f"{_entity(order)}: calls pass again; watching", incident, order)

    def _failed(self, order: Order, delivery: Delivery, receipt: Receipt) -> None:
        incident, verb = self.incidents[order.incident], delivery.verb
        unknown = receipt.retry or delivery.attempts > 1
        said = f"{verb} of {_entity(order)} failed for good ({receipt.said})"
        if verb == "apply" and unknown:
            self._take_back(order, receipt.at)
        elif verb == "apply":
            self._end(order, "refuse", receipt.at)
        elif verb == "revert":
            self._end(order, "give up", receipt.at)
            self._watch(incident, receipt.at)
            said += f"; it ends by itself at {_clock(order.expires_at)}"
        self._tell(receipt.at, "throttle_failed", said, incident, order)

    def _watch(self, incident: Incident, now: Ms) -> None:
        if incident.state is IncidentState.ACTED:
            self._move(incident, "taken back")
        incident.reverted_at = now
        incident.quiet_panes = 0
        self._touch(incident)

    def _burnt(self, incident: Incident, start: Ms, now: Ms) -> None:
        if start == incident.pane and not incident.quiet_panes:
            return  # heard before
        incident.pane, incident.quiet_panes = start, 0
        self._act(incident, now)
        self._touch(incident)

    def _quiet(self, incident: Incident, start: Ms, now: Ms) -> None:
        """A new pane, quiet so far; the one before it is over, and stayed as quiet as `quiet_panes` says."""
        if incident.quiet_panes >= QUIET_PANES and self._throttle_of(incident) is None:
            self._resolve(incident, now)
        incident.pane = start
        incident.quiet_panes += 1
        self._touch(incident)

    # Small parts

    def _enter(self, incident: Incident) -> None:
        self.incidents[incident.id] = incident
        self._latest[incident.family, incident.tenant, incident.key_id] = incident

    def _forget(self, incident: Incident) -> None:
        """An incident that cannot reopen is in the ledger only."""
        mine = self._orders_of.get(incident.id, [])
        if any(order.id in self._deliveries_of for order in mine):
            return
        for order in mine:
            del self.orders[order.id]
        self._orders_of.pop(incident.id, None)
        del self.incidents[incident.id]
        place = (incident.family, incident.tenant, incident.key_id)
        if self._latest[place] is incident:
            del self._latest[place]

    def _order(self, incident: Incident, action: Any, step: int, strength: float, lease: Ms, now: Ms, reason: str) -> Order:
        order = Order(
            id=identity(incident.id, action, step),
            incident=incident.id,
            step=step,
            action=action,
            tenant=incident.tenant,
            key_id=incident.key_id,
            strength=strength,
            lease=lease,
            created_at=now,
            not_after=now + min(FIRST_SEND, lease),
            expires_at=now + lease,
            reason=reason,
        )
        self._add(order)
        self.changes.orders[order.id] = order
        return order

    def _add(self, order: Order) -> None:
        self.orders[order.id] = order
        self._orders_of.setdefault(order.incident, []).append(order)

    def _steps(self, incident: Incident, action: str) -> int:
        """How many orders of this action the incident has had."""
        return sum(order.action == action for order in self._orders_of.get(incident.id, ()))

    def _deliver(self, order: Order, verb: Verb, deadline: Ms, now: Ms) -> None:
        self.sequence = max(self.sequence + 1, now)
        delivery = Delivery(
            webhook_id=identity(order.id, verb, self.sequence),
            order=order.id,
            verb=verb,
            sequence=self.sequence,
            tenant=order.tenant,
            key_id=order.key_id,
            body=webhook_body(order, verb, self.sequence, self.incidents[order.incident], self._runbooks),
            due_at=now,
            deadline=deadline,
        )
        self._send(delivery)
        self.changes.deliveries[delivery.webhook_id] = delivery

    def _send(self, delivery: Delivery) -> None:
        self.deliveries[delivery.webhook_id] = delivery
        self._deliveries_of.setdefault(delivery.order, {})[delivery.webhook_id] = delivery

    def _throttle_of(self, incident: Incident) -> Order | None:
        mine = self._orders_of.get(incident.id, ())
        return next((order for order in mine if order.action == "throttle" and order.state in LIVE), None)

    def _pending(self, order: Order, verb: Verb) -> Delivery | None:
        return next((d for d in self._deliveries_of.get(order.id, {}).values() if d.verb == verb), None)

    def _drop(self, order: Order) -> None:
        """What has not left of an order never leaves; an attempt under way is settled as unknown."""
        for delivery in list(self._deliveries_of.get(order.id, {}).values()):
            self._finish(delivery)

    def _finish(self, delivery: Delivery) -> None:
        delivery.done = True
        self.changes.deliveries[delivery.webhook_id] = delivery
        del self.deliveries[delivery.webhook_id]
        mine = self._deliveries_of[delivery.order]
        del mine[delivery.webhook_id]
        if not mine:
            del self._deliveries_of[delivery.order]

    def _move(self, incident: Incident, event: str) -> None:
        if event not in INCIDENT_TABLE[incident.state]:
            raise IllegalTransition(f"incident {incident.id}: {event} in {incident.state}")
        incident.state = INCIDENT_TABLE[incident.state][event]
        self._touch(incident)

    def _step(self, order: Order, event: str) -> None:
        if event not in ORDER_TABLE[order.state]:
            raise IllegalTransition(f"order {order.id}: {event} in {order.state}")
        order.state = ORDER_TABLE[order.state][event]
        self.changes.orders[order.id] = order

    def _end(self, order: Order, event: str, now: Ms) -> None:
        self._step(order, event)
        order.ended_at = now

    def _touch(self, incident: Incident) -> None:
        self.changes.incidents[incident.id] = incident

    def _tell(self, at: Ms, what: What, said: str, incident: Incident | None = None, order: Order | None = None) -> None:
        self.news.append(News(at, what, said, copy.copy(incident), copy.copy(order)))


def alert_row(news: News) -> dict[str, Any] | None:
    """The row of alerts.jsonl: a first notification, a rise in severity, a first apply; None for all other news."""
    incident, order = news.incident, news.order
    if incident is None or order is None or news.what not in ("notified", "throttle_applied"):
        return None
    if news.what == "throttle_applied" and incident.applies > 1:
        return None
    return {
        "at": news.at / 1000,
        "incident": incident.id,
        "kind": incident.kind,
        "severity": incident.severity,
        "tenant": incident.tenant,
        "key_id": incident.key_id,
        "action": order.action,
        "usd_at_risk": incident.evidence.usd_per_hour,
        "evidence": msgspec.to_builtins(incident.evidence) | {"holds": list(incident.holds)},
    }


def _watched(incident: Incident, start: Ms) -> bool:
    """Whether a pane that began at `start` says something about an incident whose throttle was taken back."""
    taken_back = incident.reverted_at
    return incident.state is IncidentState.OPEN and taken_back is not None and start >= max(taken_back, incident.pane)


def _entity(of: Incident | Order) -> str:
    return f"{of.tenant}/{of.key_id}"


def _headline(incident: Incident) -> str:
    e = incident.evidence
    if incident.family == "data":
        return _at_stake(incident)
    over = f"${e.usd_per_hour:,.0f}/h over normal"
    return f"${e.observed:,.2f} in {e.window // 60_000} min, ${e.expected:,.2f} expected; {over}"


def _at_stake(incident: Incident) -> str:
    e = incident.evidence
    if incident.family == "data":
        return ", ".join(map(_told, e.contributions))
    return f"${e.usd_per_hour:,.0f}/h at risk"


def _told(of: Contribution) -> str:
    if of.unit != "USD":
        return f"{of.observed:,.0f} {of.name}"
    ratio = f" (ratio {of.observed / of.expected:,.2f})" if of.expected else ""
    return f"{of.name}: gateway says ${of.observed:,.2f}, price book says ${of.expected:,.2f}{ratio}"


def _clock(at: Ms) -> str:
    seconds = at // 1000 % 86_400
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} UTC"
