"""A real PostgreSQL on this machine, for tests: Debian's binaries, a cluster of its own in a temporary folder, loopback only.

    with Postgres() as server: ...       # server.ledger() is the URL of a new one; .kill() and .start() bounce the server

`python -m tests.postgres fetch` (`make services`) installs the binaries where apt is there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from examples.kafka.broker import free_ports

USER = "burnguard"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
}
STARTS_WITHIN_S = 30.0
COMMON = Path("/etc/postgresql-common/createcluster.conf")
ROOT = [] if os.getuid() == 0 else ["sudo"]
"""How a command is begun that only root may."""


class NoPostgres(RuntimeError):
    """There can be no server here, and why."""


def binaries() -> Path:
    """The folder of the newest installed version's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise NoPostgres("PostgreSQL is not installed: `make services` does it where apt is there")
    return Path(on_path).parent


class Postgres:
    """One server. PostgreSQL refuses to run as root: there its processes and its folder belong to the user `postgres`."""

    def __init__(self) -> None:
        self._programs = binaries()
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_urlsafe(12)
        self._ledgers = 0
        (self.port,) = free_ports(1)

    def __enter__(self) -> Postgres:
        self._folder = Path(tempfile.mkdtemp(prefix="burnguard-postgres-"))
        if self._as:
            shutil.chown(self._folder, "postgres", "postgres")
        word = self._folder / "password"
        word.write_text(self.password)
        word.chmod(0o644)  # the folder is closed to others
        login = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", str(word)]
        made = ["--pgdata", str(self._folder / "data"), "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run([self._programs / "initdb", *made, *login], check=True, capture_output=True, cwd="/", **self._as)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Returns when it answers. Starting a running one does nothing."""
        if self._process is not None:
            return
        given = [f"--{name}={value}" for name, value in {**SETTINGS, "port": str(self.port)}.items()]
        with_us = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []  # it ends when we are killed
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [*with_us, self._programs / "postgres", "-D", str(self._folder / "data"), *given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **self._as,
            )
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self._folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, its clients are told ("fast" shutdown); the data stays."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As if it had crashed ("immediate" shutdown); what was committed is found in its log at the next start."""
        self._end(signal.SIGQUIT)

    def ledger(self) -> str:
        """The URL of a new, empty schema: quicker to make than a database."""
        self._ledgers += 1
        self.execute(f"CREATE SCHEMA ledger_{self._ledgers}")
        return f"{self.url()}?options=-csearch_path%3Dledger_{self._ledgers}"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """What the administrator gets for an answer."""
        with closing(psycopg.connect(self.url(), autocommit=True)) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None


def fetch() -> str:
    """Install Debian's package, without the cluster that it would start; what came of it."""
    with suppress(NoPostgres):
        return f"already in {binaries()}"
    if shutil.which("apt-get") is None:
        return "apt is not there, so install it yourself; without it the tests that need it are skipped"
    no_cluster = f"mkdir -p {COMMON.parent} && test -e {COMMON} || echo 'create_main_cluster = false' > {COMMON}"
    subprocess.run([*ROOT, "sh", "-c", no_cluster], check=True)
    done = _apt("install")
    if done.returncode:  # perhaps its lists are old
        _apt("update")
        done = _apt("install")
    if done.returncode:
        raise SystemExit(f"apt-get could not install postgresql: {done.stderr[-800:].strip()}")
    return f"installed in {binaries()}"


def _apt(command: str) -> subprocess.CompletedProcess[str]:
    what = ["-y", "--no-install-recommends", "postgresql"] if command == "install" else []
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", command, "-qq", *what]
    return subprocess.run([*ROOT, *quiet], capture_output=True, text=True)


if __name__ == "__main__":
    assert sys.argv[1:] == ["fetch"], "usage: python -m tests.postgres fetch"
    print(f"PostgreSQL: {fetch()}")  # noqa: T201
