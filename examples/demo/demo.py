"""The demo: a stolen key burns, is noticed, throttled at a receiver that the traffic obeys, and released again."""

from __future__ import annotations

import subprocess
import sys

from examples.demo.stage import BURNGUARD, HERE, STORY, Stage
from examples.demo.traffic import LIVE_S

LEARNS_WITHIN_S = 60.0
"""On a machine that is busy; else the whole demo takes 70 s."""
LAST_WORDS_S = 10.0


def main() -> int:
    with Stage() as stage:
        play(stage)
        return stage.verdict(STORY)


def play(stage: Stage) -> None:
    past = stage.folder / "history.ndjson"
    stage.run("traffic", [sys.executable, HERE / "traffic.py", "history", past])
    url = stage.receiver()
    files = ["--history", past, "--policy", HERE / "policy.yaml", "--ledger", stage.folder / "ledger.sqlite"]
    run = stage.play("burnguard", [BURNGUARD, "run", *files, "-"], env=stage.environment(url), stdin=subprocess.PIPE)
    if not stage.wait("history ", LEARNS_WITHIN_S):
        return
    traffic = stage.play(
        "traffic", [sys.executable, HERE / "traffic.py", "live", url], stdout=run.stdin, stderr=subprocess.PIPE
    )
    assert run.stdin is not None
    run.stdin.close()
    stage.wait("RESOLVED", LIVE_S)
    traffic.terminate()
    stage.end(run, LAST_WORDS_S)


if __name__ == "__main__":
    sys.exit(main())
