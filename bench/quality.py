"""`python -m bench.quality TRACES NAB`: writes docs/quality.md and docs/scenarios.md, what detection is worth as it is now.

TRACES and NAB are folders with the real traces and with the Numenta Anomaly Benchmark. It takes some minutes on two cores.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
from importlib.metadata import version
from pathlib import Path

import click

from bench import lab, nab
from stream.documents import recommended
from stream.lab.baselines import BASELINES
from stream.lab.scenarios import table
from stream.lab.tables import LEGEND, Row, Table, basis, by_kind, by_lookalike, by_scenario, summary
from stream.lab.trials import Traffic, together, trials

SEEDS = range(9001, 9009)
"""Used for the table in docs/quality.md and for nothing else: whoever tunes a detector takes other ones."""
TRAFFIC = Traffic(keys=60, days=14, count=20)
REAL = ("servegen_mlarge_requests.csv.gz", "agentic_sessions_dev.csv.gz")
OURS = "burnguard"

QUALITY = """\
# How good detection is

Written by `python -m bench.quality TRACES NAB` ({machine}); the numbers are those of the detectors as they are
now, low ones too. Until the detectors of issue 8 there is one: the money rule of `spend_spike`. It can name no other kind,
and its only action is a throttle, so "kind right" and "right action" can hardly be higher than the share of such incidents.

Traffic: {count} of the {scenarios} [scenarios](scenarios.md), drawn at random (one that fits no key is left out), in the second
week of {days} days of ordinary traffic, on each of {backgrounds} backgrounds (a built-in population of {keys} keys; real clients of a large model at
Alibaba; real coding-agent sessions), with the seeds {first} to {last}, which are used for nothing else. Every policy and rule
sees the same calls. Rivals are re-implemented from what they publish ([baselines.py](../stream/lab/baselines.py) names each
source); all they do is notify. The packaged policy is armed. Make it your own: `burnguard trials --background YOUR.ndjson`.

{basis}

{tables}

{legend}
## The rules

{rules}

## Numenta Anomaly Benchmark, development half

```
{nab}
```

The half that is kept back was not scored here. What the dummies and the scale mean: `python -m bench.nab --help`.

## What it costs

On one core (`python -m bench.lab TRACE`). Two weeks have 241,920 panes, whatever the number of calls, and with this few calls
a second a backtest takes as long as its panes.

```
{cost}
```
"""
SCENARIOS = """\
# Scenarios

What `burnguard simulate` can plant: incidents taken from public post-mortems and bug reports, every number varied over a wide
range, at any hour, on any kind of key, several at once; and what only looks like one. A detector should name an incident's
*kind*; the *right action* is the strongest that helps. On a look-alike a notice is acceptable, any action is wrong. Written
by `python -m bench.quality`.

{table}"""


@click.command(help=__doc__)
@click.argument("traces", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("corpus", metavar="NAB", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(traces: Path, corpus: Path) -> None:
    Path("docs/scenarios.md").write_text(SCENARIOS.format(table=table()))
    cost = "\n".join(lab.measured(trace) for trace in (None, traces / REAL[0]))
    backgrounds = {"built-in": None} | {name.split("_")[0]: traces / name for name in REAL}
    made = trials(SEEDS, list(backgrounds.values()), TRAFFIC, {OURS: recommended()}, os.cpu_count() or 1)
    with click.progressbar(made, length=len(SEEDS) * len(backgrounds), label="trials") as bar:
        done = list(bar)
    rows = together(done)
    one = {name: together(done[n * len(SEEDS) : (n + 1) * len(SEEDS)])[0] for n, name in enumerate(backgrounds)}
    Path("docs/quality.md").write_text(page(rows, one, scored(corpus), cost))


def page(rows: list[Row], backgrounds: dict[str, Row], nab_said: str, cost: str) -> str:
    ours = rows[0].score
    found, disturbed = summary([Row(f"{OURS}, {name}", row.trials, row.chance) for name, row in backgrounds.items()])
    each = [Table(f"{table.title}, by background", table.header, table.rows) for table in (found, disturbed)]
    tables = [*summary(rows), *each, by_kind(ours), by_scenario(ours), by_lookalike(ours)]
    return QUALITY.format(
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {version('numpy')}",
        count=TRAFFIC.count,
        scenarios=len(table().splitlines()) - 2,
        days=TRAFFIC.days,
        backgrounds=len(backgrounds),
        keys=TRAFFIC.keys,
        first=SEEDS[0],
        last=SEEDS[-1],
        basis=basis(rows[0]),
        tables="\n\n".join(table.markdown() for table in tables),
        legend=LEGEND,
        rules="\n".join(f"- **{rule.name}**: {rule.says} ({rule.source})" for rule in BASELINES),
        nab=nab_said,
        cost=cost,
    )


def scored(corpus: Path) -> str:
    """What `python -m bench.nab` prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        nab.main([str(corpus)], standalone_mode=False)
    return said.getvalue().strip()


if __name__ == "__main__":
    main()
