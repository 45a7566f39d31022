"""The commands of the lab: `burnguard simulate`."""

from __future__ import annotations

from pathlib import Path

import click

from stream.lab.scenarios import SCENARIOS
from stream.lab.simulate import drawn, simulated

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NAMES = {scenario.name: scenario for scenario in SCENARIOS}


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
@click.option("--days", type=click.FloatRange(1, 365), default=14.0, show_default=True, help="Not for your own events.")
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
