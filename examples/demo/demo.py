"""The demo: a stolen key burns, is noticed, throttled at a receiver that the traffic obeys, and released again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
BURNGUARD = str(Path(sys.executable).with_name("burnguard"))
LIMIT_S = 88.0
SECRET = "whsec_" + "ZGVtbyBzZWNyZXQsIG9ubHkgZm9yIHRoZSBkZW1vISE="


class Stage:
    """What was seen so far, and the programs that play."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.lines: list[str] = []
        self.ready, self.resolved = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def show(self, stream: object, prefix: str = "") -> threading.Thread:
        """Print and remember every line of a stream until it ends."""

        def follow() -> None:
            for raw in stream:  # type: ignore[attr-defined]  # a text stream
                with self._lock:
                    self.lines.append(prefix + raw.rstrip())
                    print(prefix + raw.rstrip(), flush=True)
                if raw.startswith("history"):
                    self.ready.set()
                if "RESOLVED" in raw:
                    self.resolved.set()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        return thread

    def saw(self, pattern: str) -> int:
        """The first line that matches, -1 if none."""
        return next((i for i, text in enumerate(self.lines) if re.search(pattern, text)), -1)


def main() -> int:
    stage = Stage()
    with tempfile.TemporaryDirectory() as folder:
        return play(stage, Path(folder))


def play(stage: Stage, folder: Path) -> int:
    secret, past = folder / "secret", folder / "history.ndjson"
    secret.write_text(SECRET)
    subprocess.run([sys.executable, HERE / "traffic.py", "history", past], check=True)
    receiver = subprocess.Popen(
        [sys.executable, HERE.parent / "receiver" / "receiver.py", "--port", "0", "--secret-file", secret],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    url = receiver.stdout.readline().split()[-1].removesuffix("/hook")
    stage.show(receiver.stdout, "receiver   ")
    environment = os.environ | {
        "BURNGUARD_WEBHOOK_URL": f"{url}/hook",
        "BURNGUARD_WEBHOOK_SECRET_FILE": str(secret),
        "BURNGUARD_WEBHOOK_ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "BURNGUARD_WEBHOOK_ALLOW_HTTP": "true",
    }
    ours, theirs = os.pipe()
    run = subprocess.Popen(
        [BURNGUARD, "run", "--history", past, "--policy", HERE / "policy.yaml", "--ledger", folder / "ledger.sqlite", "-"],
        stdin=ours,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    told = stage.show(run.stdout)
    stage.ready.wait(LIMIT_S / 2)
    traffic = subprocess.Popen(
        [sys.executable, HERE / "traffic.py", "live", url], stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(ours)
    os.close(theirs)
    stage.show(traffic.stderr)
    try:
        stage.resolved.wait(stage.began + LIMIT_S - 8 - time.monotonic())
        traffic.terminate()
        run.wait(timeout=max(1.0, stage.began + LIMIT_S - time.monotonic()))
        told.join(timeout=2)
    finally:
        for process in (traffic, run, receiver):
            process.kill()
            process.wait()
    return verdict(stage)


def verdict(stage: Stage) -> int:
    """0 only if alert, throttle, falling spend and revert were all seen, in this order."""
    burning = stage.saw(r"stolen key: [1-9]\d* calls let through, 0 refused")
    alert, throttle = stage.saw("INCIDENT"), stage.saw("THROTTLE")
    falling, revert = stage.saw(r"stolen key: 0 calls let through, [1-9]"), stage.saw("REVERTED")
    resolved = stage.saw("RESOLVED")
    steps = {"burn": burning, "alert": alert, "throttle": throttle, "falling spend": falling, "revert": revert}
    steps["resolve"] = resolved
    missing = [name for name, at in steps.items() if at < 0]
    print(
        f"demo       {'not seen: ' + ', '.join(missing) if missing else 'alert, throttle, falling spend, revert: all seen'}"
    )
    return 1 if missing or not alert <= throttle < revert < resolved else 0


if __name__ == "__main__":
    sys.exit(main())
