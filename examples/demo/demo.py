"""The demo: a stolen key burns, is noticed, throttled at a receiver that the traffic obeys, and released again."""

from __future__ import annotations

import subprocess
import sys
import time

from examples.demo.stage import BURNGUARD, HERE, STORY, Stage

LIMIT_S = 88.0


def main() -> int:
    with Stage() as stage:
        play(stage, time.monotonic() + LIMIT_S)
        return stage.verdict(STORY)


def play(stage: Stage, until: float) -> None:
    past = stage.folder / "history.ndjson"
    stage.run("traffic", [sys.executable, HERE / "traffic.py", "history", past])
    url = stage.receiver()
    files = ["--history", past, "--policy", HERE / "policy.yaml", "--ledger", stage.folder / "ledger.sqlite"]
    run = stage.play("burnguard", [BURNGUARD, "run", *files, "-"], env=stage.environment(url), stdin=subprocess.PIPE)
    stage.wait("history ", LIMIT_S / 2)
    traffic = stage.play(
        "traffic", [sys.executable, HERE / "traffic.py", "live", url], stdout=run.stdin, stderr=subprocess.PIPE
    )
    assert run.stdin is not None
    run.stdin.close()
    stage.wait("RESOLVED", until - 8 - time.monotonic())
    traffic.terminate()
    stage.end(run, until - time.monotonic())


if __name__ == "__main__":
    sys.exit(main())
