"""The commands that talk to Kafka's administration: `burnguard topics init|check`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from stream.problems import RETENTION_MINUTES, problems
from stream.reach import Unreachable
from stream.settings import KafkaSettings, SettingsError
from stream.topics import ROLES, look
from stream.topics import init as make


@contextmanager
def mistakes_said() -> Iterator[None]:
    try:
        yield
    except (SettingsError, Unreachable) as error:
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
