"""What both demos share: the programs that play, what they said, and the verdict."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

HERE = Path(__file__).parent
BURNGUARD = str(Path(sys.executable).with_name("burnguard"))
SECRET = "whsec_" + "ZGVtbyBzZWNyZXQsIG9ubHkgZm9yIHRoZSBkZW1vISE="
Command: TypeAlias = Sequence[object]
Program: TypeAlias = "subprocess.Popen[str]"
Tell: TypeAlias = Callable[[str], str | None]
"""What to show of a line that a program printed; None: nothing."""
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

STORY = {
    "burn": r"stolen key: [1-9]\d* calls let through, 0 refused",
    "alert": "INCIDENT",
    "throttle": "THROTTLE",
    "falling spend": r"stolen key: 0 calls let through, [1-9]",
    "revert": "REVERTED",
    "resolve": "RESOLVED",
}
"""What must be seen, in this order."""


class Stage:
    """The programs that play in a folder of their own, and every line that was shown. Leaving it ends and removes all."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.programs: list[Program] = []
        self._listeners: dict[int, list[threading.Thread]] = {}
        self._said = threading.Condition()
        self._last: list[Callable[[], None]] = []
        self._held_back: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="burnguard-demo-")
        self.folder = Path(self._folder.name)
        self.secret = self.folder / "secret"
        self.secret.write_text(SECRET)

    def __enter__(self) -> Stage:
        for number in ENDS:
            signal.signal(number, _leave)
        return self

    def __exit__(self, *error: object) -> None:
        for number in ENDS:  # a second Ctrl-C must not leave half of it running
            signal.signal(number, signal.SIG_IGN)
        for program in self.programs:
            program.kill()
            program.wait()
        for leave in self._last:
            leave()
        self._folder.cleanup()

    def leave_with(self, last: Callable[[], None]) -> None:
        """Do this too when the stage is left."""
        self._last.append(last)

    def play(self, who: str, command: Command, tell: Tell = str, env: dict[str, str] | None = None, **pipes: Any) -> Program:
        """Start a program in a session of its own (a Ctrl-C is for the demo alone) and show what it prints."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | pipes
        program = subprocess.Popen([str(part) for part in command], env=env, text=True, start_new_session=True, **pipes)
        self.programs.append(program)
        streams = [stream for stream in (program.stdout, program.stderr) if stream is not None]
        threads = [threading.Thread(target=self._follow, args=(who, s, tell), daemon=True) for s in streams]
        self._listeners[program.pid] = threads
        for thread in threads:
            thread.start()
        return program

    def run(self, who: str, command: Command, tell: Tell = str, env: dict[str, str] | None = None) -> None:
        """Play a program to its end. Raises RuntimeError where it fails."""
        if self.end(self.play(who, command, tell, env), 60):
            raise RuntimeError(f"{who} failed: {' '.join(map(str, command))}")

    def end(self, program: Program, seconds: float) -> int:
        """Wait until a program has ended, and all that it said was shown; its exit code. Raises TimeoutExpired."""
        code = program.wait(max(1.0, seconds))
        for thread in self._listeners[program.pid]:
            thread.join(2)
        return code

    def receiver(self) -> str:
        """Start the bundled receiver; its address."""
        self.play(
            "receiver",
            [sys.executable, HERE.parent / "receiver" / "receiver.py", "--port", "0", "--secret-file", self.secret],
        )
        if not self.wait("listening on", 20):
            raise RuntimeError("the receiver did not start")
        return self.lines[self.saw("listening on")].split()[-1]

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """Settings for `burnguard`, none of the user's among them."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BURNGUARD_")}
        return inherited | {
            "BURNGUARD_WEBHOOK_URL": f"{url}/hook",
            "BURNGUARD_WEBHOOK_SECRET_FILE": str(self.secret),
            "BURNGUARD_WEBHOOK_ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "BURNGUARD_WEBHOOK_ALLOW_HTTP": "true",
            **more,
        }

    def say(self, who: str, said: str) -> None:
        with self._said:
            self.lines.append(f"{who:<10} {said}")
            print(self.lines[-1], flush=True)
            self._said.notify_all()

    def saw(self, pattern: str) -> int:
        """The first line that matches, -1 if none."""
        return next((i for i, line in enumerate(self.lines) if re.search(pattern, line)), -1)

    def all(self, pattern: str) -> list[str]:
        """Every line that matches."""
        return [line for line in self.lines if re.search(pattern, line)]

    def wait(self, until: str | Callable[[], bool], seconds: float) -> bool:
        """Whether a line that matches was shown, or it became true, in time."""
        done = until if callable(until) else lambda: self.saw(until) >= 0
        with self._said:
            return self._said.wait_for(done, max(0.0, seconds))

    def verdict(self, story: dict[str, str]) -> int:
        """0 only if everything was seen, in the order of the story."""
        at = {step: self.saw(pattern) for step, pattern in story.items()}
        missing = [step for step in at if at[step] < 0]
        ordered = list(at.values()) == sorted(at.values())
        if missing:
            self.say("demo", f"not seen: {', '.join(missing)}")
        else:
            self.say("demo", f"{', '.join(story)}: all seen{'' if ordered else ', but not in this order'}")
        if missing or not ordered:
            print("\n".join(["What was not shown, at its end:", *self._held_back[-40:]]), flush=True)
        return 1 if missing or not ordered else 0

    def _follow(self, who: str, stream: Iterable[str], tell: Tell) -> None:
        for raw in stream:
            shown = tell(raw.rstrip())
            if shown is None:
                self._held_back.append(f"{who:<10} {raw.rstrip()}")
            else:
                self.say(who, shown)
            with self._said:
                self._said.notify_all()


def seconds_since(then: float) -> str:
    return f"{time.monotonic() - then:.1f} s"


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
