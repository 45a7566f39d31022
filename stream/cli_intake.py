"""The command `burnguard intake`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.adapters.who import SOURCES, Sources
from schemas.producers import Producers
from stream.cli_kafka import mistakes_said
from stream.cli_options import FILE
from stream.documents import read_document
from stream.logs import configure
from stream.problems import hindrances
from stream.settings import IntakeSettings, KafkaSettings
from stream.topics import look, settings_of, unreadable

if TYPE_CHECKING:
    from stream.intake import Source


@click.command()
@click.option("--tokens", type=FILE, help="Who may send over HTTP: names and hashes of tokens (YAML or JSON).")
@click.option("--sources", type=FILE, help="Which fields of a source give tenant and key (YAML or JSON).")
@click.option("--from-topic", "topic", help="Read this topic instead of listening for calls.")
@click.option("--as", "source", type=click.Choice(("native", *SOURCES)), help="What writes that topic.")
def intake(tokens: Path | None, sources: Path | None, topic: str | None, source: Source | None) -> None:
    """Take what gateways and applications send, over HTTP or from a topic of theirs, into the topic `usage`.

    A request is answered with 200 when Kafka has acknowledged its calls. BURNGUARD_INTAKE_HOST and _PORT say where it
    listens, 127.0.0.1:9465 by default; docs/sources has a page for each gateway.
    """
    from stream.intake_run import pass_on, take_requests  # Kafka's clients are slow to import, and `stop` must be fast

    configure()
    with mistakes_said():
        kafka, settings = KafkaSettings(), IntakeSettings()
        known = Sources({}) if sources is None else read_document(sources, Sources)
        if tokens is not None and topic is None and source is None:
            producers = read_document(tokens, Producers)
            _check(kafka)
            asyncio.run(take_requests(kafka, settings, producers, known))
        elif tokens is None and topic is not None and source is not None:
            if topic in settings_of(kafka):
                raise click.UsageError(f"--from-topic {topic}: it is a topic of ours")
            _check(kafka, topic)
            asyncio.run(pass_on(kafka, settings, topic, source, known))
        else:
            raise click.UsageError("either --tokens FILE, to listen, or --from-topic TOPIC --as SOURCE")


def _check(kafka: KafkaSettings, topic: str | None = None) -> None:
    wrong = list(hindrances(kafka, look(kafka)))
    wrong += [] if topic is None else filter(None, [unreadable(kafka, topic)])
    if wrong:
        raise click.ClickException("\n".join(wrong))
