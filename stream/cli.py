"""The command `burnguard`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from actions.ledger import BadLedger, Busy, Deposed, Ledger
from schemas.documents import DocumentError
from schemas.snapshot import BadCheckpoint
from stream.cli_convert import convert
from stream.cli_intake import intake
from stream.cli_kafka import emit, mistakes_said, topics
from stream.cli_lab import backtest, simulate, trials
from stream.cli_options import (
    FILE,
    directory_of,
    directory_option,
    ledger_option,
    policy_of,
    policy_option,
    prices_of,
    prices_option,
    sources_of,
    sources_option,
    tokens_option,
)
from stream.cli_usage import usage
from stream.documents import recommended
from stream.duty import courier, wall
from stream.learn import learn as learn_from
from stream.live import usd
from stream.logs import configure
from stream.problems import refusals
from stream.reach import Unreachable
from stream.responder import pull_switch
from stream.run import Run, Serve
from stream.settings import IntakeSettings, KafkaSettings, Settings, SettingsError, WorkerSettings
from stream.sources import BrokenFile
from stream.tokens import Tokens
from stream.topics import look

MISTAKES = (SettingsError, DocumentError, Unreachable, BadCheckpoint, BadLedger, Busy, Deposed, BrokenFile, OSError)
"""What may go wrong without us being wrong: each says what it is about."""


class Plain(click.Group):
    """Says mistakes in a sentence, exit status 1; 130 after a second Ctrl-C. All else is our mistake: a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except MISTAKES as error:
            raise click.ClickException(sentence(error)) from error
        except KeyboardInterrupt:
            click.echo("left at once", err=True)
            ctx.exit(130)


def sentence(error: Exception) -> str:
    """What a person is told of a mistake."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


@click.group(cls=Plain)
@click.version_option(package_name="burnguard")
def main() -> None:
    """Notice runaway LLM spend within seconds, act on it, and take the action back."""


main.add_command(topics)
main.add_command(emit)
main.add_command(simulate)
main.add_command(backtest)
main.add_command(trials)
main.add_command(usage)
main.add_command(convert)
main.add_command(intake)


@main.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@tokens_option
@sources_option
@click.option("--history", type=FILE, help="Read this NDJSON file first, for baselines; nothing in it is acted on.")
@prices_option
@directory_option
@policy_option
@ledger_option
def run(
    source: str | None,
    tokens: Path | None,
    sources: Path | None,
    history: Path | None,
    prices: Path | None,
    directory: Path | None,
    policy: Path | None,
    ledger: str,
) -> None:
    """Follow usage events from SOURCE, an NDJSON file (.gz too) or - for standard input (the default).

    With --tokens instead it listens, as `burnguard intake` does: what it takes is in a journal beside the ledger before it
    is answered.
    """
    if tokens is not None and source is not None:
        raise click.UsageError("either SOURCE, or --tokens FILE, to listen")
    if sources is not None and tokens is None:
        raise click.UsageError("--sources is for --tokens FILE, to listen")
    if tokens is None and source in (None, "-") and sys.stdin is None:
        raise click.ClickException("standard input is closed: name a file, or pipe usage events in")
    serve = None if tokens is None else _intake(tokens, sources)
    running = Run(policy_of(policy), directory_of(directory), prices_of(prices), Settings(), ledger, click.echo)
    if serve is not None:
        running.begin_journal(history)
    else:
        running.begin(source or "-", history)
    asyncio.run(_until_stopped(running, source or "-", serve))


def _intake(tokens: Path, sources: Path | None) -> Serve:
    from stream.serving import take_in  # FastAPI and protobuf are slow to import, and `stop` must be fast

    configure()
    return take_in(IntakeSettings(), Tokens(tokens), sources_of(sources), click.echo)


@main.command()
@click.argument("file", type=FILE)
@prices_option
def learn(file: Path, prices: Path | None) -> None:
    """Give new topics a past: baselines from FILE (NDJSON, .gz too), before the first worker starts.

    Nothing in it is acted on, and nothing of it is sent through the topic `usage`.
    """
    with mistakes_said():
        for past in learn_from(KafkaSettings(), file, prices_of(prices), wall()):
            told = f"{past.calls} calls of {past.keys} keys, {usd(past.usd)}, {past.refused} lines refused"
            click.echo(f"partition {past.partition}: {told}; goes on at offset {past.next}")


@main.command()
@prices_option
def worker(prices: Path | None) -> None:
    """Fold the usage topic in Kafka (BURNGUARD_KAFKA_..., BURNGUARD_WORKER_...) and say signals and pulses."""
    from stream.app import KafkaError, work  # Faust and Kafka's clients are slow to import, and `stop` must be fast

    configure()
    try:
        kafka, settings = KafkaSettings(), WorkerSettings()
        wrong = refusals(kafka, look(kafka))
        if wrong:
            raise click.ClickException("\n".join(wrong))
        asyncio.run(work(kafka, settings, prices_of(prices)))
    except (SettingsError, Unreachable, KafkaError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@directory_option
@policy_option
@ledger_option
def responder(directory: Path | None, policy: Path | None, ledger: str) -> None:
    """Act on the signals in Kafka (BURNGUARD_KAFKA_...): one responder of a ledger is active, others stand by."""
    from stream.standby import Standby  # Kafka's clients are slow to import, and `stop` must be fast

    Ledger(ledger).close()  # what is wrong with it is said at once, not when we are elected
    configure()
    try:
        standby = Standby(
            partial(Ledger, ledger), policy_of(policy), directory_of(directory), Settings(), KafkaSettings(), click.echo
        )
        asyncio.run(_until_told(standby.go()))
    except (SettingsError, Unreachable) as error:
        raise click.ClickException(str(error)) from error


@main.group()
def policy() -> None:
    """Work on policies."""


@policy.command()
@click.argument("file", type=FILE)
def check(file: Path) -> None:
    """Say whether FILE is a valid policy; else where it is wrong and what is allowed."""
    rules = policy_of(file).rules
    click.echo(f"{file}: {len(rules)} rules, {sum(rule.armed for rule in rules)} armed")


@main.command()
@click.option("--release", is_flag=True, help="Undo an earlier stop.")
@ledger_option
def stop(release: bool, ledger: str) -> None:
    """The kill switch: no new orders, every throttle taken back."""
    with closing(Ledger(ledger, must_exist=True)) as held:
        said = pull_switch(held, release, wall, lambda outbox: courier(Settings(), outbox), recommended())
        click.echo(asyncio.run(said))


async def _until_stopped(running: Run, source: str, serve: Serve | None) -> None:
    """Follow until the source ends, or SIGTERM or Ctrl-C say so. Raises KeyboardInterrupt at a second Ctrl-C, at once."""
    loop = asyncio.get_running_loop()
    going = asyncio.create_task(running.go(source, serve))

    def told() -> None:
        loop.add_signal_handler(signal.SIGINT, going.cancel)
        click.echo("stopping   no more calls are read; taking throttles back (Ctrl-C again: leave at once)")
        running.stop_following()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    await asyncio.wait({going})
    if going.cancelled():
        raise KeyboardInterrupt
    going.result()


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Work until SIGTERM or SIGINT."""
    task = asyncio.create_task(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
