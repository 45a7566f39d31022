"""The commands of the lab: `burnguard simulate`, `burnguard backtest` and `burnguard trials`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from schemas.batch import NANO
from schemas.policy import Policy
from stream.cli_options import FILE, directory_of, directory_option, policy_of, policy_option, prices_of, prices_option
from stream.lab.alerts import Alert
from stream.lab.backtest import File, Source, Topic, difference
from stream.lab.backtest import backtest as play
from stream.lab.labels import Labels
from stream.lab.report import report
from stream.lab.scenarios import SCENARIOS
from stream.lab.simulate import drawn, simulated
from stream.lab.tables import LEGEND, Row, Table, basis, by_kind, by_lookalike, by_scenario, summary, to_json
from stream.lab.topic import SCHEME, BadSpan, Span, recorded
from stream.lab.trials import Traffic, standings, together
from stream.lab.trials import trials as run
from stream.settings import KafkaSettings

SHOWN = 20
"""Of the alerts that only one policy gives."""
MOST_SEEDS = 10_000
NAMES = {scenario.name: scenario for scenario in SCENARIOS}


class Days(click.FloatRange):
    """A number of days; `nan` is none."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        days = float(super().convert(value, param, ctx))
        if math.isnan(days):
            self.fail("nan is no number of days", param, ctx)
        return days


def _listed(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        for scenario in SCENARIOS:
            kind = scenario.kind or "look-alike"
            click.echo(f"{scenario.name:<22} {kind:<16} {scenario.action:<10} {scenario.says}")
        ctx.exit()


@click.command()
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_listed, help="Say what can be planted.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for what it writes.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed gives the same bytes.")
@click.option("--background", type=FILE, help="A real trace, or your own usage events; else a built-in population.")
@click.option("--days", type=Days(1, 365), default=14.0, show_default=True, help="Not for your own events.")
@click.option("--keys", type=click.IntRange(1, 100_000), default=60, show_default=True, help="Of the built-in population.")
@click.option("--count", type=click.IntRange(0, 1_000), default=20, show_default=True, help="Scenarios to plant.")
@click.option("--scenario", "names", type=click.Choice(list(NAMES)), multiple=True, metavar="NAME", help="This one instead.")
def simulate(
    out: Path, seed: int, background: Path | None, days: float, keys: int, count: int, names: tuple[str, ...]
) -> None:
    """Write labelled traffic: incidents and look-alikes planted into the second half of ordinary traffic.

    OUT gets calls.ndjson, labels.json (what really happened), directory.json and prices.json.
    """
    planted = [NAMES[name] for name in names] or drawn(seed, count)
    made = simulated(seed, planted, background, keys, days)
    with click.progressbar(length=len(made.calls), label="calls") as bar:
        for written in made.write(out):
            bar.update(written)
    labels = made.labels.labels
    incidents = [label for label in labels if not label.lookalike]
    for name in made.left_out:
        click.echo(f"{name}: left out, no key in this background is fit for it")
    click.echo(f"{len(made.calls)} calls of {made.labels.keys} keys from {made.labels.background}, in {out}")
    click.echo(
        f"{len(incidents)} incidents (${sum(i.usd for i in incidents):,.2f}), {len(labels) - len(incidents)} look-alikes"
    )


@click.command()
@click.argument("source")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for what it writes.")
@prices_option
@directory_option
@policy_option
@click.option("--against", type=FILE, help="A second policy: which alerts does only one of the two give?")
@click.option("--labels", type=FILE, help="What really happened, as `simulate` writes it: scores the alerts, and rivals.")
def backtest(
    source: str,
    out: Path,
    prices: Path | None,
    directory: Path | None,
    policy: Path | None,
    against: Path | None,
    labels: Path | None,
) -> None:
    """Run SOURCE through the same pipeline in event time; nothing is sent.

    SOURCE is an NDJSON file (.gz too), or kafka:TOPIC@FROM..TO (BURNGUARD_KAFKA_...), such as kafka:usage@2026-11-01.. with
    times in ISO 8601 or epoch seconds.

    OUT gets alerts.jsonl, report.html and quarantine.jsonl, with --labels also score.json, with --against against.jsonl.
    """
    policies, truth, known = _policies(policy, against), Labels.read(labels) if labels else None, directory_of(directory)
    out.mkdir(parents=True, exist_ok=True)
    played = play(_sources(source), prices_of(prices), known, list(policies.values()), out)
    totals, ours = played.totals, played.played[0]
    ours.write(out / "alerts.jsonl")
    click.echo(f"calls        {totals.calls}")
    click.echo(f"unique calls {totals.unique}")
    click.echo(f"USD          {totals.usd // NANO}.{totals.usd % NANO:09d}")
    click.echo(f"quarantined  {totals.quarantined}")
    click.echo(f"alerts       {len(ours.alerts)} in {out / 'alerts.jsonl'}")
    if against:
        played.played[1].write(out / "against.jsonl")
        for name, only in zip(policies, difference(ours.alerts, played.played[1].alerts), strict=True):
            _show_only(name, only)
    tables: Sequence[Table] = ()
    if truth is not None:
        if truth.labels and not truth.fits(played.spent.names):
            raise click.ClickException(f"{labels}: none of its keys makes a call in {source}: labels of another file?")
        rows = standings(list(policies), played, known, truth)
        tables = _show(rows, out)
    (out / "report.html").write_text(report(ours, played, source.rpartition("/")[2], truth, tables))
    click.echo(f"report       {out / 'report.html'}")


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for score.json.")
@click.option(
    "--seeds", metavar="FIRST-LAST", default="1-4", show_default=True, help="One trial for each, on each background."
)
@click.option("--background", "backgrounds", type=FILE, multiple=True, help="A real trace, or your own usage events.")
@click.option("--days", type=Days(1, 365), default=14.0, show_default=True)
@click.option("--keys", type=click.IntRange(1, 100_000), default=60, show_default=True, help="Of the built-in population.")
@click.option("--count", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Scenarios in each trial.")
@policy_option
@click.option("--against", type=FILE, help="A second policy, scored beside the first.")
def trials(
    out: Path,
    seeds: str,
    backgrounds: tuple[Path, ...],
    days: float,
    keys: int,
    count: int,
    policy: Path | None,
    against: Path | None,
) -> None:
    """Simulate, backtest and score many times, on all cores: how good is a policy, give or take?"""
    first, _, last = seeds.partition("-")
    decimal = first.isdecimal() and (last or first).isdecimal()
    if not decimal or not 0 <= int(last or first) - int(first) < MOST_SEEDS:
        raise click.BadParameter(f"give FIRST-LAST, such as 1-8, at most {MOST_SEEDS} of them", param_hint="--seeds")
    numbers = range(int(first), int(last or first) + 1)
    places = backgrounds or (None,)
    out.mkdir(parents=True, exist_ok=True)
    made = run(numbers, places, Traffic(keys, days, count), _policies(policy, against), os.cpu_count() or 1)
    with click.progressbar(made, length=len(numbers) * len(places), label="trials") as bar:
        _show(together(list(bar)), out)


def _sources(source: str) -> Sequence[Source]:
    """Raises Unreachable, SettingsError."""
    if not source.startswith(SCHEME):
        path = Path(source)
        if not path.exists() or path.is_dir():
            raise click.BadParameter(f"{source}: {'a folder' if path.is_dir() else 'no such file'}", param_hint="SOURCE")
        return [File(path)]
    try:
        span = Span.read(source)
    except BadSpan as error:
        raise click.BadParameter(str(error), param_hint="SOURCE") from error
    settings = KafkaSettings()
    return [Topic(settings, span.topic, part) for part in recorded(settings, span)]


def _policies(policy: Path | None, against: Path | None) -> dict[str, Policy]:
    """The policies under the names that they have in tables."""
    if against is None:
        return {"burnguard": policy_of(policy)}
    names = [policy.name if policy else "recommended", against.name]
    if names[0] == names[1]:
        names = [str(policy), f"{against} (against)"]
    return {f"burnguard, {name}": policy_of(path) for name, path in zip(names, (policy, against), strict=True)}


def _show(rows: Sequence[Row], out: Path) -> list[Table]:
    """Print and write the score; the tables."""
    ours = [table for row in rows[:1] for table in (by_kind(row.score), by_scenario(row.score), by_lookalike(row.score))]
    tables = [*summary(rows), *ours]
    (out / "score.json").write_bytes(to_json(rows))
    click.echo("\n" + "\n\n".join([basis(rows[0]), *(table.markdown() for table in tables), LEGEND]))
    return tables


def _show_only(name: str, alerts: Sequence[Alert]) -> None:
    click.echo(f"only {name}: {len(alerts)} alerts")
    for alert in alerts[:SHOWN]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(alert.at))
        what = f"{alert.kind} of {alert.tenant}/{alert.key_id}, ${alert.usd_at_risk:,.0f}/h at risk"
        click.echo(f"  {at}  {alert.severity:<7} {alert.action:<9} {what}")
