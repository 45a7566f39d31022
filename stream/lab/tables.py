"""Scores for people, as Markdown that reads well in a terminal too, and for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from stream.lab.score import MEASURES, Rate, Score, Tally, grouped, interval, pool

Interval = tuple[float, float] | None
Shown = Callable[[float], str]
NONE = "-"
FOUND = (
    "detector",
    "recall %",
    "by chance %",
    "of all %",
    "kind right %",
    "median delay",
    "p90 delay",
    "USD before alert",
    "USD before action",
    "right action %",
)
DISTURBED = (
    "detector",
    "precision %",
    "false pages",
    "false tickets",
    "false actions",
    "look-alikes acted on",
    "too strong",
    "notifications",
)
LEGEND = """\
In brackets: 95 % intervals over trials. Incidents are the material ones, except in "of all". By chance: the same alerts,
moved in time. Delays run from the material moment, of what was found. What was missed, or not acted on, costs all it cost.
USD before action: of incidents where more than telling is right.
Precision: of what was paged or ticketed, the part that was about an incident. False: about nothing, per 100 keys and day.
Too strong: incidents with a stronger action than was right. Notifications: of each incident that was found.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Words in rows and columns, for a terminal or a page; every row has as many cells as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The title as a heading, and the table, which reads well as it is.

        >>> print(Table("Recall", ("class", "found"), (("leak", "9 of 10"),)).markdown())
        ### Recall
        <BLANKLINE>
        | class |   found |
        | ----- | ------: |
        | leak  | 9 of 10 |
        """
        cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [cells[0], rule, *cells[1:]]
        padded = [
            [c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))] for line in lines
        ]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in padded)])


@dataclass(frozen=True)
class Row:
    """A policy or a baseline, its score in every trial, and what the same alerts find by chance."""

    name: str
    trials: tuple[Score, ...]
    chance: Score

    @cached_property
    def score(self) -> Score:
        """All trials as one."""
        return pool(self.trials)

    def measured(self, name: str) -> tuple[float | None, Interval]:
        """The value of one of MEASURES over all trials, and its confidence interval where there are several."""
        return MEASURES[name](self.score).value, interval(self.trials, MEASURES[name])


def summary(rows: Sequence[Row]) -> tuple[Table, Table]:
    """What each finds, and whom each disturbs; `basis` and LEGEND say what the words mean."""
    found = tuple(
        (
            row.name,
            _measured(row, "recall", _percent),
            _value(MEASURES["recall"](row.chance), _percent),
            _measured(row, "recall_all", _percent),
            _measured(row, "kind_right", _percent),
            _duration(row.score.delay(50)),
            _duration(row.score.delay(90)),
            _measured(row, "usd_before_alert", _usd),
            _measured(row, "usd_before_action", _usd),
            _measured(row, "right_action", _percent),
        )
        for row in rows
    )
    disturbed = tuple(
        (
            row.name,
            _measured(row, "precision", _percent),
            _measured(row, "false_pages", _number),
            _measured(row, "false_tickets", _number),
            _measured(row, "false_actions", _number),
            _of(MEASURES["lookalikes_acted_on"](row.score)),
            _of(MEASURES["over_action"](row.score)),
            _measured(row, "notifications", _number),
        )
        for row in rows
    )
    return Table("What is found", FOUND, found), Table("Who is disturbed", DISTURBED, disturbed)


def by_scenario(score: Score) -> Table:
    """How each scenario fared; delays and actions are those of material incidents."""
    return _incidents("scenario", _scenarios(score))


def by_kind(score: Score) -> Table:
    """How each kind of incident fared; delays and actions are those of material incidents."""
    return _incidents("kind", _kinds(score))


def by_lookalike(score: Score) -> Table:
    """What the look-alikes set off: how many incidents rose to each severity, how many actions were taken."""
    set_off = [(name, len(group.outcomes), _tally(group)) for name, group in _lookalikes(score).items()]
    return Table(
        "Look-alikes",
        ("look-alike", "n", "notices", "tickets", "pages", "actions"),
        tuple((name, f"{n}", f"{t.notices}", f"{t.tickets}", f"{t.pages}", f"{t.actions}") for name, n, t in set_off),
    )


def to_json(rows: Sequence[Row]) -> bytes:
    """The numbers of all tables."""
    return msgspec.json.format(msgspec.json.encode([_numbers(row) for row in rows]), indent=1) + b"\n"


def _scenarios(score: Score) -> dict[str, Score]:
    return grouped(score.incidents, lambda outcome: outcome.scenario)


def _kinds(score: Score) -> dict[str, Score]:
    return grouped(score.incidents, lambda outcome: str(outcome.kind))


def _lookalikes(score: Score) -> dict[str, Score]:
    return grouped(score.lookalikes, lambda outcome: outcome.scenario)


def _tally(score: Score) -> Tally:
    return sum((outcome.tally for outcome in score.outcomes), Tally())


def _incidents(what: str, groups: dict[str, Score]) -> Table:
    return Table(
        f"By {what}",
        (what, "found", "of all", "kind right", "median delay", "p90 delay", "right action", "too strong"),
        tuple(
            (
                name,
                *(_of(MEASURES[measure](group)) for measure in ("recall", "recall_all", "kind_right")),
                _duration(group.delay(50)),
                _duration(group.delay(90)),
                *(_of(MEASURES[measure](group)) for measure in ("right_action", "over_action")),
            )
            for name, group in groups.items()
        ),
    )


def _numbers(row: Row) -> dict[str, Any]:
    measured = {name: row.measured(name) for name in MEASURES}
    return {
        "name": row.name,
        "trials": len(row.trials),
        "incidents": len(row.score.incidents),
        "material": len(row.score.material),
        "lookalikes": len(row.score.lookalikes),
        "key_days": row.score.key_days,
        "measures": {name: {"value": value, "interval": span} for name, (value, span) in measured.items()},
        "by_chance": {name: MEASURES[name](row.chance).value for name in ("recall", "recall_all")},
        "delay_s": _delays(row.score),
        "by_scenario": {name: _group(group) for name, group in _scenarios(row.score).items()},
        "by_kind": {name: _group(group) for name, group in _kinds(row.score).items()},
        "by_lookalike": {
            name: {"n": len(group.outcomes), "set_off": _tally(group)} for name, group in _lookalikes(row.score).items()
        },
    }


def _group(group: Score) -> dict[str, Any]:
    measures = ("recall", "recall_all", "kind_right", "right_action", "over_action", "usd", "usd_before_alert")
    return {
        "n": len(group.outcomes),
        "material": len(group.material),
        "measures": {name: MEASURES[name](group).value for name in measures},
        "delay_s": _delays(group),
    }


def _delays(score: Score) -> dict[str, float | None]:
    return {"median": score.delay(50), "p90": score.delay(90)}


def basis(row: Row) -> str:
    """What a row's numbers are made from."""
    score = row.score
    usd = _value(MEASURES["usd"](score), _usd)
    return (
        f"{len(score.material)} material incidents (of {len(score.incidents)}), ${usd} each if nothing is done; "
        f"{len(score.lookalikes)} look-alikes; {score.key_days:,.0f} key-days; trials: {len(row.trials)}."
    )


def _measured(row: Row, name: str, shown: Shown) -> str:
    value, span = row.measured(name)
    if value is None:
        return NONE
    return shown(value) if span is None else f"{shown(value)} ({shown(span[0])}..{shown(span[1])})"


def _value(rate: Rate, shown: Shown) -> str:
    return NONE if rate.value is None else shown(rate.value)


def _of(rate: Rate) -> str:
    return f"{rate.top:.0f} of {rate.bottom:.0f}" if rate.bottom else NONE


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _usd(usd: float) -> str:
    return f"{usd:,.0f}"


def _number(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:,.0f}"


def _duration(seconds: float | None) -> str:
    """Short, in the unit that suits it.

    >>> [_duration(seconds) for seconds in (None, 4.2, -90, 5400, 200_000)]
    ['-', '4 s', '-90 s', '90 min', '56 h']
    """
    if seconds is None:
        return NONE
    for unit, size, most in (("s", 1, 100), ("min", 60, 6000)):
        if abs(seconds) < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.0f} h"
