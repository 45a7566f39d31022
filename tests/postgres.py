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
from contextlib import closing
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
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")


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
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", str(self._folder / "data"), *given],
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


def fetch() -> None:
    """Install Debian's package, without the cluster that it would start."""
    try:
        print(f"PostgreSQL: already in {binaries()}")  # noqa: T201
        return
    except NoPostgres:
        if shutil.which("apt-get") is None:
            print("PostgreSQL: apt is not there, install it yourself; without it the tests that need it are skipped")  # noqa: T201
            return
    before = [] if os.getuid() == 0 else ["sudo"]
    unwanted = f"mkdir -p {NO_CLUSTER.parent} && test -e {NO_CLUSTER} || echo 'create_main_cluster = false' > {NO_CLUSTER}"
    subprocess.run([*before, "sh", "-c", unwanted], check=True)
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "postgresql"]
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "text": True}
    done = subprocess.run([*before, *install], **quiet)  # type: ignore[call-overload]
    if done.returncode:
        subprocess.run([*before, "apt-get", "update", "-qq"], **quiet)  # type: ignore[call-overload]
        done = subprocess.run([*before, *install], **quiet)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"apt-get could not install postgresql: {done.stderr[-800:]}")
    print(f"PostgreSQL: installed in {binaries()}")  # noqa: T201


if __name__ == "__main__":
    assert sys.argv[1:] == ["fetch"], "usage: python -m tests.postgres fetch"
    fetch()
