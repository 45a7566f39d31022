"""What was used, out of the ledger: grouped and summed as asked, exact, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actions.ledger import DAY, Ledger
from actions.usage import HOUR
from schemas.batch import NANO
from schemas.rollup import MEASURES, TOKEN_CLASSES

TIMES = ("hour", "day", "month")
NAMED = {
    "tenant": "tenant",
    "key": "key_id",
    "provider": "provider",
    "model": "model",
    "feature": "feature",
    "operation": "operation",
    "tier": "tier",
    "prices": "price_version",
}
"""What usage can be grouped by and narrowed to, and the ledger's column of it."""
GROUPS = (*NAMED, "class", *TIMES)
ALL_TIME = range(2**31 - 1)
"""Epoch hours."""
OUTPUT_CLASSES = ("output", "reasoning", "audio_output")
Values = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """`by` of GROUPS, in the order of the columns; the epoch hours; the values allowed of some of NAMED."""

    by: tuple[str, ...]
    hours: range
    only: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Statement:
    """The groups' names and sums, row by row, and the sum of all; money in nano-dollars.

    By class, the one measure is `tokens`: a call is priced and rounded as a whole, so dollars have no class.
    """

    by: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], Values], ...]
    total: Values

    def table(self) -> str:
        """For people: input and output tokens instead of all classes, `-` where no name was given."""
        shown = list(map(self._shown, (*(values for _, values in self.rows), self.total)))
        cells = [
            [*self.by, *shown[-1]],
            *([*(name or "-" for name in names), *row.values()] for (names, _), row in zip(self.rows, shown, strict=False)),
            ["total", *[""] * (len(self.by) - 1), *shown[-1].values()],
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(self._line(row, widths) for row in cells)

    def csv(self) -> str:
        """RFC 4180, the last row being the total; dollars with nine decimals."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow([*self.by, *self.measures])
        for names, values in (*self.rows, (("total", *[""] * (len(self.by) - 1)), self.total)):
            writer.writerow([*names, *self._exact(values).values()])
        return out.getvalue()

    def json(self) -> str:
        """`rows` and `total`; dollars are texts with nine decimals, so that no reader rounds them."""
        rows = [{**dict(zip(self.by, names, strict=True)), **self._exact(values)} for names, values in self.rows]
        return json.dumps({"rows": rows, "total": self._exact(self.total)}, indent=2, ensure_ascii=False) + "\n"

    def _exact(self, values: Values) -> dict[str, int | str]:
        named = zip(self.measures, values, strict=True)
        return {name: exact(value) if name.endswith("usd") else value for name, value in named}

    def _shown(self, values: Values) -> dict[str, str]:
        held = dict(zip(self.measures, values, strict=True))
        if "tokens" in held:
            return {"tokens": f"{held['tokens']:,}"}
        said = sum(held[name] for name in OUTPUT_CLASSES)
        read = sum(held[name] for name in TOKEN_CLASSES) - said
        shown = {
            "calls": f"{held['calls']:,}",
            "input": f"{read:,}",
            "output": f"{said:,}",
            "usd": f"${held['usd'] / NANO:,.2f}",
        }
        guessed = dict(zip(self.measures, self.total, strict=True))["guessed_usd"]
        return shown | ({"of it guessed": f"${held['guessed_usd'] / NANO:,.2f}"} if guessed else {})

    def _line(self, row: list[str], widths: list[int]) -> str:
        named = len(self.by)
        padded = [cell.ljust(w) if i < named else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(padded).rstrip()


def statement(ledger: Ledger, question: Question) -> Statement:
    """Groups in the order of their times, the dearest first."""
    grouped = [name for name in question.by if name != "class"]
    asked = ["day" if name == "month" else NAMED.get(name, name) for name in grouped]
    only = {NAMED[name]: values for name, values in question.only.items()}
    sums: dict[tuple[str, ...], Values] = {}
    for row in ledger.usage(asked, question.hours, only):
        names = tuple(_name(*pair) for pair in zip(grouped, row, strict=False))
        sums[names] = _added(sums.get(names, (0,) * len(MEASURES)), row[len(grouped) :])
    total = (0,) * len(MEASURES)
    for values in sums.values():
        total = _added(total, values)
    if "class" in question.by:
        return _by_class(question.by, sums, total)
    times = [place for place, name in enumerate(question.by) if name in TIMES]
    usd = MEASURES.index("usd")
    rows = sorted(sums.items(), key=lambda row: ([row[0][at] for at in times], -row[1][usd], row[0]))
    return Statement(question.by, MEASURES, tuple(rows), total)


def _by_class(by: tuple[str, ...], sums: Mapping[tuple[str, ...], Values], total: Values) -> Statement:
    at = by.index("class")
    rows = [
        ((*names[:at], name, *names[at:]), (tokens,))
        for names, values in sums.items()
        for name, tokens in _tokens(values)
        if tokens
    ]
    times = [place for place, name in enumerate(by) if name in TIMES]
    rows.sort(key=lambda row: ([row[0][place] for place in times], -row[1][0], row[0]))
    return Statement(by, ("tokens",), tuple(rows), (sum(tokens for _, tokens in _tokens(total)),))


def _tokens(values: Values) -> Iterator[tuple[str, int]]:
    return ((name, values[MEASURES.index(name)]) for name in TOKEN_CLASSES)


def _added(one: Iterable[int], other: Iterable[int]) -> Values:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _name(group: str, value: int | str) -> str:
    """A group's name as it is read: UTC."""
    if isinstance(value, str):
        return value
    form = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}[group]
    return time.strftime(form, time.gmtime(value * (1 if group == "hour" else DAY) * HOUR // 1000))


def exact(nano: int) -> str:
    """Nano-dollars in dollars.

    >>> exact(1_234_567_890_123)
    '1234.567890123'
    """
    return f"{nano // NANO}.{nano % NANO:09d}"
