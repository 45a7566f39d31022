"""`python -m bench.lab [TRACE]`: calls/s of the lab on one core: traffic made and written, and played back with its spend."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from schemas.directory import Directory
from stream.documents import recommended
from stream.lab.backtest import File, backtest
from stream.lab.simulate import drawn, simulated

DAYS, KEYS, COUNT = 14.0, 60, 20
PANE_S = 5


def timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measured(trace: Path | None) -> str:
    """One line about one background."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def simulate() -> None:
            for _ in simulated(1, drawn(1, COUNT), trace, KEYS, DAYS).write(folder):
                pass

        made = timed(simulate)
        calls = (folder / "calls.ndjson").read_bytes().count(b"\n")
        played = timed(lambda: backtest([File(folder / "calls.ndjson")], [], Directory(), [recommended()], folder))
        panes = DAYS * 86_400 / PANE_S
        return (
            f"{trace.name if trace else 'built-in'}: {calls:,} calls simulated and written at {calls / made:,.0f}/s, "
            f"backtest {calls / played:,.0f}/s, {played / panes * 1e6:.0f} us per 5-s pane"
        )


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {version('numpy')}, numba {version('numba')}")
    for trace in (None, *map(Path, sys.argv[1:])):
        print(measured(trace))


if __name__ == "__main__":
    main()
