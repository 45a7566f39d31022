"""The command `burnguard usage`."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from actions.ledger import DAY, Ledger
from actions.usage import HOUR
from schemas.batch import SERVICE_TIERS
from stream.cli_options import ledger_option
from stream.duty import wall
from stream.money.statement import ALL_TIME, GROUPS, NAMED, Question, statement


class Groups(click.ParamType):
    """Names of GROUPS with commas between them."""

    name = "groups"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(name.strip() for name in str(value).split(","))
        for name in found:
            if name not in GROUPS:
                self.fail(f"{name!r} is nothing to group by; it can be {', '.join(GROUPS)}", param, ctx)
            if found.count(name) > 1:
                self.fail(f"{name} is named twice", param, ctx)
        return found


class Moment(click.ParamType):
    """A date, or a date and an hour, in UTC, as epoch hours."""

    name = "UTC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date such as 2026-11-30 or 2026-11-30T06:00 (UTC)", param, ctx)
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        if at.replace(minute=0, second=0, microsecond=0) != at:
            self.fail(f"{value!r} is within an hour, and usage is kept by the hour", param, ctx)
        return round(at.timestamp()) * 1000 // HOUR


class Span(click.ParamType):
    """Hours (24h) or days (7d), as hours."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", value)
        if found is None:
            self.fail(f"{value!r} is no span such as 24h or 7d", param, ctx)
        return int(found[1]) * (DAY if found[2] == "d" else 1)


def narrowing(command: Any) -> Any:
    """An option for each of NAMED."""
    for name in reversed(NAMED):
        kind = click.Choice(SERVICE_TIERS) if name == "tier" else click.STRING
        said = f"Only this {name} (may be given again)."
        command = click.option(f"--{name}", f"only_{name}", type=kind, multiple=True, help=said)(command)
    return command


@click.command()
@ledger_option
@click.option("--by", type=Groups(), default="tenant", show_default=True, help=f"With commas: {', '.join(GROUPS)}.")
@click.option("--from", "since", type=Moment(), help="The first hour (UTC).")
@click.option("--to", "until", type=Moment(), help="The hour after the last one (UTC).")
@click.option("--month-to-date", is_flag=True, help="Since the first of this month (UTC).")
@click.option("--last", type=Span(), help="Such as 24h or 7d: so many hours, this one among them.")
@narrowing
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def usage(
    ledger: str,
    by: tuple[str, ...],
    since: int | None,
    until: int | None,
    month_to_date: bool,
    last: int | None,
    form: str,
    **only: tuple[str, ...],
) -> None:
    """Say what was used: calls, tokens and dollars by whatever you like, from the hours in the ledger.

    A running responder adds to it every minute. Every token is in one class, the one that it is priced as; cached tokens
    that nobody told of are fresh. Times are UTC.
    """
    asked = {name.removeprefix("only_"): values for name, values in only.items() if values}
    hours = hours_of(since, until, month_to_date, last, wall() // HOUR)
    with closing(Ledger(ledger, must_exist=True)) as opened:
        found = statement(opened, Question(by, hours, asked))
    said = {"table": found.table, "csv": found.csv, "json": found.json}[form]()
    click.echo(said, nl=form == "table")


def hours_of(since: int | None, until: int | None, month_to_date: bool, last: int | None, now: int) -> range:
    """The epoch hours that are asked for. Raises UsageError."""
    if (since is not None or until is not None) + month_to_date + (last is not None) > 1:
        raise click.UsageError("--from and --to, --month-to-date, and --last exclude each other")
    if month_to_date:
        first = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=now)).replace(day=1, hour=0)
        since = round(first.timestamp()) * 1000 // HOUR
    if last is not None:
        since, until = now + 1 - last, now + 1
    hours = range(ALL_TIME.start if since is None else max(since, 0), ALL_TIME.stop if until is None else until)
    if not hours:
        raise click.UsageError("--to must be after --from")
    return hours
