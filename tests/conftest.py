"""What several test modules need: a real Kafka broker and names of their own on it, ledgers in both databases."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from examples.kafka.broker import Broker, Unavailable
from examples.receiver.receiver import Receiver
from tests.postgres import NoPostgres, Postgres
from tests.story import Story

collect_ignore = ["fuzz.py"]
"""A program: it turns the compiler of kernels off."""
SECRET = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"


class Reachable(Protocol):
    @property
    def bootstrap(self) -> str: ...


@dataclass(frozen=True)
class Given:
    """A broker of the user's, KAFKA_BOOTSTRAP."""

    bootstrap: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and {"broker", "own_broker"} & set(item.fixturenames):
            item.add_marker("kafka")
        if isinstance(item, pytest.Function) and {"postgres", "postgresql"} & {*item.fixturenames, *parameters(item)}:
            item.add_marker("postgres")


def parameters(item: pytest.Function) -> set[object]:
    """Those that are words, such as the database that its ledgers are in."""
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {each for each in given if isinstance(each, str)}


@pytest.fixture(autouse=True)
def no_kafka_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BURNGUARD_KAFKA_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    try:
        broker = Broker(tmp_path_factory.mktemp("kafka"))
    except Unavailable as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no Kafka broker: {reason}")
    with broker:
        yield broker


@pytest.fixture
def own_broker(one_broker: Broker) -> Broker:
    """The broker of this test run: with SASL and TLS, and a test may bounce it; the next test finds it running."""
    one_broker.start()
    return one_broker


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Reachable:
    """A broker that answers: the user's where KAFKA_BOOTSTRAP names one, else `own_broker`."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    given: Reachable = Given(bootstrap) if bootstrap else request.getfixturevalue("own_broker")
    return given


@pytest.fixture(scope="session")
def one_postgres() -> Iterator[Postgres]:
    try:
        server = Postgres()
    except NoPostgres as reason:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no PostgreSQL: {reason}")
    with server:
        yield server


@pytest.fixture
def postgres(one_postgres: Postgres) -> Postgres:
    """The server of this test run; a test may bounce it, the next test finds it running."""
    one_postgres.start()
    return one_postgres


NewLedger = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewLedger:
    """Names of ledgers that are not there yet, in one database and then in the other."""
    monkeypatch.chdir(tmp_path)  # where a run keeps what a file's ledger has beside it
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        return server.ledger
    numbers = itertools.count()
    return lambda: str(tmp_path / f"ledger-{next(numbers)}.sqlite")


def fewer(count: int, ledger: str) -> int:
    """So many of a test's examples on this ledger: all on SQLite, on a server some."""
    return count // 5 if ledger.startswith("postgresql") else count


NewStory = Callable[..., Story]


@pytest.fixture
def new_story(new_ledger: NewLedger) -> Iterator[NewStory]:
    """A story on a new ledger, with this policy or directory."""
    with ExitStack() as stack:

        def told(**given: object) -> Story:
            story = Story(new_ledger(), **given)  # type: ignore[arg-type]  # what Story takes
            return stack.enter_context(closing(story))

        yield told


@pytest.fixture
def topic_prefix() -> str:
    """Topics and groups that start with it are this test's alone."""
    return f"t-{uuid4().hex[:10]}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """The bundled receiver, really listening; it knows SECRET."""
    server = Receiver(SECRET)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
