"""The command `burnguard convert`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from schemas.adapters.reading import Reading
from schemas.adapters.who import SOURCES, SourceName, Sources
from stream.cli_options import FILE
from stream.documents import read_document
from stream.duty import wall
from stream.sources import opened

MAX_BYTES = 256 << 20


@click.command()
@click.option("--from", "source", type=click.Choice(SOURCES), required=True, help="What wrote it.")
@click.option("--tenant", help="Stands in where the source names none.")
@click.option("--key-id", help="Stands in where the source names none.")
@click.option("--model", help="Stands in where the source names none.")
@click.option("--sources", type=FILE, help="Which fields of a source give tenant and key (YAML or JSON).")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def convert(
    source: SourceName, tenant: str | None, key_id: str | None, model: str | None, sources: Path | None, file: Path
) -> None:
    """Say what FILE (.gz too, or - for standard input) holds: usage events as NDJSON, and what was refused and why.

    What another program sent goes in as it is: payloads of gateways, OTLP traces, provider answers. Prompts and answers
    are dropped. The summary is on standard error; exit 1 if anything was refused. docs/sources has a page for each source.
    """
    from schemas.adapters.sources import usage_events  # protobuf is slow to import, and `stop` must be fast

    known = Sources({}) if sources is None else read_document(sources, Sources)
    try:
        who = known.of(source, tenant, key_id, model)
    except ValueError as error:
        raise click.UsageError("--tenant, --key-id and --model: 1 to 256 characters that can be shown") from error
    reading = usage_events(source, _bytes_of(file), who, wall() / 1000)
    out = click.get_binary_stream("stdout")
    for event in reading.events:
        out.write(msgspec.json.encode(event) + b"\n")
    out.flush()
    for line in summary(reading):
        click.echo(line, err=True)
    if reading.refused:
        raise SystemExit(1)


def summary(reading: Reading) -> Iterator[str]:
    """What became of what was read, a line for each reason; never its content."""
    yield f"calls    {len(reading.events)}"
    reasons = Counter((refusal.field, refusal.reason) for refusal in reading.refused)
    first = {(refusal.field, refusal.reason): refusal.part for refusal in reversed(reading.refused)}
    yield f"refused  {len(reading.refused)}"
    for (field, reason), times in reasons.most_common():
        yield f"  {times} x {f'{field}: ' if field else ''}{reason} (first: part {first[field, reason]})"
    yield f"passed   {sum(reading.passed.values())}"
    for reason, times in reading.passed.most_common():
        yield f"  {times} x {reason}"


def _bytes_of(file: Path) -> bytes:
    if str(file) == "-":
        body = click.get_binary_stream("stdin").read(MAX_BYTES + 1)
    else:
        with opened(file) as read:
            body = read.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise click.ClickException(f"{file}: larger than {MAX_BYTES >> 20} MiB: cut it, NDJSON at line ends")
    return body
