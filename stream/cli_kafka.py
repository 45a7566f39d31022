"""The commands around the topics: `burnguard topics init|check` and `burnguard emit`."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import click

from stream.emit import emit as send
from stream.emit import lines_of
from stream.learn import Refused
from stream.problems import RETENTION_MINUTES, problems
from stream.reach import Unreachable
from stream.settings import KafkaSettings, SettingsError
from stream.topics import ROLES, look
from stream.topics import init as make


@contextmanager
def mistakes_said() -> Iterator[None]:
    try:
        yield
    except (SettingsError, Unreachable, Refused) as error:
        raise click.ClickException(str(error)) from error


@click.group()
def topics() -> None:
    """Make Burnguard's Kafka topics, or say what is wrong with them."""


@topics.command()
@click.option("--partitions", type=click.IntRange(1, 10_000), help="Of usage and state: as there are, or 12 for new ones.")
@click.option("--replication", type=click.IntRange(1, 100), help="Copies of each; else 3, or as many as there are brokers.")
def init(partitions: int | None, replication: int | None) -> None:
    """Make the topics that are missing; those that are there are left as they are."""
    with mistakes_said():
        lines, whole = make(KafkaSettings(), partitions, replication)
    for line in lines:
        click.echo(line)
    if not whole:
        raise SystemExit(1)


@topics.command()
@click.option(
    "--role", "roles", type=click.Choice(ROLES), multiple=True, help="Whose rights to check; else worker, responder."
)
def check(roles: tuple[str, ...]) -> None:
    """Say what is wrong, one line each with the command that mends it; exit 1 if there is anything."""
    with mistakes_said():
        settings = KafkaSettings()
        cluster = look(settings)
    wrong = problems(settings, cluster, roles or ("worker", "responder"))
    for line in wrong:
        click.echo(line)
    if wrong:
        raise SystemExit(1)
    for name, topic in cluster.topics.items():
        click.echo(f"{name}: {topic.partitions} partition{'s' * (topic.partitions > 1)}, replication {topic.replicas}: good")
    if cluster.offsets_retention_minutes is None:
        click.echo(
            f"brokers: offsets.retention.minutes cannot be read with our rights; it must be {RETENTION_MINUTES} or more"
        )


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), default="-")
def emit(source: Path) -> None:
    """Send usage events from SOURCE, an NDJSON file (.gz too) or - for standard input, to the topic `usage`.

    Says what became of every line; exit 1 unless all were acknowledged.
    """
    with mistakes_said():
        settings = KafkaSettings()
        with opened(source) as lines:
            report = send(settings, lines)
    for line in report.lines():
        click.echo(line)
    if not report.good:
        raise SystemExit(1)


@contextmanager
def opened(source: Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """The lines of a file, with a progress bar by bytes on a terminal, or of standard input."""
    if str(source) == "-":
        yield lines_of(click.get_binary_stream("stdin"))
        return
    size, shown = source.stat().st_size, sys.stderr.isatty()
    with source.open("rb") as raw, click.progressbar(length=size, file=sys.stderr, hidden=not shown) as bar:
        file = cast(IO[bytes], gzip.open(raw)) if source.suffix == ".gz" else raw
        yield lines_of(file, lambda: bar.update(raw.tell() - bar.pos))
