"""Numbers, times and incidents as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from schemas.batch import Ms
from schemas.incidents import News
from schemas.policy import Match, Rule
from schemas.signals import WHOLE_TENANT, Evidence
from stream.lab.accounts import Account
from stream.lab.labels import Label
from stream.lab.savings import in_force_until, wants_refusing

LONGEST_NAME = 60
LONGEST_SAYING = 240
MOST_MOMENTS = 16


def dollars(usd: float) -> str:
    """Money, to the cent.

    >>> dollars(0.004), dollars(-12.5), dollars(1372.8)
    ('$0.00', '-$12.50', '$1,372.80')
    """
    sign = "-" if round(usd, 2) < 0 else ""
    return f"{sign}${abs(usd):,.2f}"


def lasting(ms: float) -> str:
    """A length of time in its two largest units.

    >>> lasting(20_000), lasting(320_000), lasting(34_260_000), lasting(270_000_000)
    ('20 s', '5 min 20 s', '9 h 31 min', '3 d 3 h')
    """
    seconds = round(ms / 1000)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, size), (small, rest) in pairwise(units):
        if seconds >= size:
            more = seconds % size // rest
            return f"{seconds // size} {large}" + (f" {more} {small}" if more else "")
    return f"{seconds} s"


def each(step: Ms) -> str:
    """A slice of time, behind `per`.

    >>> each(60_000), each(1_800_000), each(3_600_000)
    ('minute', '30 min', 'hour')
    """
    return {60_000: "minute", 3_600_000: "hour", 86_400_000: "day"}.get(step, lasting(step))


def moment(at: Ms) -> str:
    """A time of a day.

    >>> moment(1_793_844_735_000)
    'Thu 5 Nov 02:12:15'
    """
    return time.strftime("%a %-d %b %H:%M:%S", time.gmtime(at // 1000))


def day(at: Ms) -> str:
    """A day with its year.

    >>> day(1_793_844_735_000)
    'Thu 5 Nov 2026'
    """
    return time.strftime("%a %-d %b %Y", time.gmtime(at // 1000))


def clock(at: Ms) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at // 1000))


def weekday(at: Ms) -> str:
    return time.strftime("%a %H:%M:%S", time.gmtime(at // 1000))


def counted(n: int, one: str, many: str | None = None) -> str:
    """How many there are of something.

    >>> counted(1, "incident"), counted(1200, "key")
    ('1 incident', '1,200 keys')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def name(word: str, most: int = LONGEST_NAME) -> str:
    """Words that somebody else chose, short enough for a line, without characters that change how others are read."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in word)
    return plain if len(plain) <= most else f"{plain[: most - 10]}…{plain[-9:]}"


def entity(tenant: str, key_id: str) -> str:
    """Whose it is.

    >>> entity("acme", "key-1"), entity("acme", "*"), entity("*", "*")
    ('acme / key-1', 'acme, all keys', 'everybody')
    """
    if tenant == WHOLE_TENANT:
        return "everybody"
    return f"{name(tenant)}, all keys" if key_id == WHOLE_TENANT else f"{name(tenant)} / {name(key_id)}"


def who(account: Account) -> str:
    """Whose incident it is."""
    return entity(account.opened.tenant, account.opened.key_id)


def amount(value: float, unit: str) -> str:
    """A number of evidence with its unit.

    >>> amount(5.4, "USD"), amount(2.0, "partitions"), amount(0.25, "share")
    ('$5.40', '2 partitions', '0.25 share')
    """
    return dollars(value) if unit == "USD" else f"{value:,.{0 if value == round(value) else 2}f} {name(unit)}"


def story(account: Account) -> list[str]:
    """The incident in sentences."""
    return [*_money(account), *_done(account), *_came_out(account), *_doubts(account.opened.evidence)]


def outcome(account: Account) -> str:
    """In a word or two."""
    if any(news.what == "human_needed" for news in account.news):
        return "throttled, then a person asked"
    if account.acted:
        return "throttled"
    return "told" if account.told else "nobody told"


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened; `mark` where it has a place in the chart."""

    at: Ms
    mark: str
    said: str


def moments(account: Account) -> list[Moment]:
    """What happened, in order; renewals that follow each other are one, and of very many the middle is left out."""
    told, marks = [Moment(account.began, "1", "began")], 1
    for what, group in groupby(account.news, lambda news: news.what):
        alike = list(group)
        for said, news in [_renewed(alike)] if what == "throttle_renewed" else [(_said(news), news) for news in alike]:
            marked = what in ("incident_opened", "throttle_applied", "throttle_reverted", "incident_resolved")
            marks += marked
            told.append(Moment(news.at, str(marks) if marked else "", said))
    if len(told) <= MOST_MOMENTS:
        return told
    half = MOST_MOMENTS // 2
    left = Moment(told[half].at, "", f"{len(told) - 2 * half} more, left out here")
    return [*told[:half], left, *told[-half:]]


def verdict(account: Account, scored_from: float) -> str:
    """Of a labelled record: what it really was, what would have been right, and what was done."""
    if not account.labels:
        if account.noticed_at / 1000 < scored_from:
            return "Nothing was planted here; baselines were still being learnt, so it is not scored."
        return f"Nothing was planted here: a false alarm{', acted on' if account.acted else ''}."
    label = account.labels[0]
    done = "throttled" if account.acted else "told" if account.told else "nothing"
    if account.acted != wants_refusing(label):
        done += ", which is wrong" if account.acted else ", which is too little"
    return f"Really {planted(label)}. Right: {right(label)}. Done: {done}."


def planted(label: Label) -> str:
    """What was planted, in words."""
    what = "a look-alike" if label.kind is None else name(label.kind).replace("_", " ")
    return f"“{name(label.scenario)}” ({what}, {dollars(label.usd)} injected)"


def right(label: Label) -> str:
    """The action that would be right."""
    return "leave it alone" if label.action == "none" else label.action


def matching(match: Match) -> str:
    """The conditions of a rule."""
    given = [
        ("kind", " or ".join(match.kind or ())),
        ("severity at least", match.severity or ""),
        ("over normal at least", f"${match.usd_per_hour:,.0f}/h" if match.usd_per_hour is not None else ""),
        ("tenant", " or ".join(name(t) for t in match.tenant or ())),
        ("key", " or ".join(name(k) for k in match.key_id or ())),
    ]
    return name(", ".join(f"{what} {value}" for what, value in given if value), LONGEST_SAYING) or "everything"


def doing(rule: Rule) -> str:
    """The ladder of a rule."""
    steps = []
    for step in rule.do:
        if step.throttle is None:
            steps.append("notify")
        else:
            steps.append(f"throttle: refuse {step.throttle.strength:.0%} for {lasting(step.throttle.lease)}")
    return ", then ".join(steps)


def _money(account: Account) -> Iterator[str]:
    evidence = account.opened.evidence
    noticed = lasting(account.noticed_at - account.began)
    if not account.about_money:
        yield f"{', '.join(f'{name(c.name, LONGEST_SAYING)}: {amount(c.observed, c.unit)}' for c in evidence.contributions)}."
        return
    lasted = lasting(account.until - account.began)
    yield f"{dollars(account.observed)} in {lasted}, where {dollars(60 * account.normal)}/h is expected."
    rate = f"{dollars(evidence.usd_per_hour)}/h over normal"
    yield f"It began {moment(account.began)} and was noticed {noticed} later, at {rate}."


def _done(account: Account) -> Iterator[str]:
    severity = account.last.told or account.last.severity
    told = f"A {severity} was sent" if account.told else "Nobody was told: no rule of the policy speaks of it"
    if not account.acted:
        holds = account.last.holds
        because = f", and nothing else was done, because {_listed(holds)}" if holds else "; the policy wants no more"
        yield f"{told}{because if account.told else ''}."
        return
    orders = [refused.order for refused in account.refused]
    force = sum(in_force_until(order) - (order.applied_at or 0) for order in orders)
    often = "" if len(orders) == 1 else f", in {len(orders)} goes"
    strength = f"{max(order.strength for order in orders):.0%}"
    first = orders[0].applied_at or 0
    taken = "taken back by itself at the end" if orders[-1].ended_at is not None else "still on when the record ends"
    quickly = lasting(first - account.began)
    yield f"{told} and, {quickly} after it began, {strength} of its calls were refused, for {lasting(force)}{often}; {taken}."
    saved, harm = sum(r.saved for r in account.refused), sum(r.harm for r in account.refused)
    if all(refused.false for refused in account.refused):
        yield f"That refuses {dollars(harm)} of spend that was wanted."
    else:
        yield f"That stops {dollars(saved)} of it, and {dollars(harm)} of ordinary spend with it."


def _came_out(account: Account) -> Iterator[str]:
    if any(news.what == "human_needed" for news in account.news):
        yield "It burned on after the last throttle that the policy allows, so a person was asked."
    if account.last.resolved_at is not None:
        yield f"Back to normal {moment(account.last.resolved_at)}."
    else:
        yield "Still open when the record ends."


def _doubts(evidence: Evidence) -> Iterator[str]:
    if evidence.learning is not None:
        yield f"Its baseline was young: {counted(evidence.learning, 'pane')} seen."
    if evidence.guessed_share > 0:
        yield f"{evidence.guessed_share:.0%} of it is at a guess: its models have no known price."


def _said(news: News) -> str:
    incident, order = news.incident, news.order
    if news.what == "incident_opened" and incident is not None and incident.family != "data":
        return f"noticed: {dollars(incident.evidence.observed)} in {lasting(incident.evidence.window)}"
    if news.what == "incident_opened":
        return "noticed"
    if news.what == "notified" and incident is not None:
        held = f"; no action: {_listed(incident.holds)}" if incident.holds else ""
        return f"{incident.severity} sent{held}"
    if news.what == "throttle_applied" and order is not None:
        return f"{order.strength:.0%} of its calls refused until {clock(order.expires_at)}"
    if news.what == "throttle_proposed" and order is not None:
        return f"proposed only: refuse {order.strength:.0%} of its calls"
    plain = {
        "incident_reopened": "burns again",
        "throttle_reverted": "taken back, and watched",
        "human_needed": "a person must decide",
        "incident_resolved": "back to normal",
    }
    return plain.get(news.what, name(news.said, LONGEST_SAYING))


def _renewed(alike: list[News]) -> tuple[str, News]:
    last = alike[-1]
    until = f" until {clock(last.order.expires_at)}" if last.order is not None else ""
    return f"renewed{'' if len(alike) == 1 else f' {len(alike)} times'}{until}", last


def _listed(reasons: tuple[str, ...]) -> str:
    return reasons[0] if len(reasons) == 1 else f"{', '.join(reasons[:-1])} and {reasons[-1]}"
