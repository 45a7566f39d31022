"""`python -m examples.week`: simulate the week, play it to the policy beside it, and write the report."""

from __future__ import annotations

import gzip
from pathlib import Path

from stream.cli import main

HERE = Path(__file__).parent
SEED, KEYS, DAYS = 7, 6, 7
PLANTED = ("leak_fast", "agent_loop_tight", "b_one_off_job", "b_nightly_batch")


def simulate(folder: Path) -> None:
    """The week's calls.ndjson.gz, labels.json, directory.json and prices.json."""
    planted = [word for name in PLANTED for word in ("--scenario", name)]
    run("simulate", "--out", folder, "--seed", SEED, "--keys", KEYS, "--days", DAYS, *planted)
    calls = folder / "calls.ndjson"
    (folder / "calls.ndjson.gz").write_bytes(gzip.compress(calls.read_bytes(), mtime=0))
    calls.unlink()


def backtest(week: Path, out: Path) -> None:
    """What the policy makes of it: alerts.jsonl, score.json and report.html."""
    documents = [word for name in ("labels", "directory", "prices") for word in (f"--{name}", week / f"{name}.json")]
    run("backtest", week / "calls.ndjson.gz", "--policy", HERE / "policy.yaml", *documents, "--out", out)
    (out / "quarantine.jsonl").unlink()


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments], standalone_mode=False)


if __name__ == "__main__":
    simulate(HERE)
    backtest(HERE, HERE)
