"""The documents that several commands take."""

from __future__ import annotations

from pathlib import Path

import click

from schemas.adapters.who import Sources
from schemas.directory import Directory
from schemas.policy import Policy
from schemas.prices import Entry, PriceList, SelfHosted
from stream.documents import read_document, recommended

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
prices_option = click.option("--prices", type=FILE, help="Price overrides (prices.json) over the built-in price table.")
directory_option = click.option("--directory", type=FILE, help="What you know of tenants and keys (JSON or YAML).")
ledger_option = click.option(
    "--ledger",
    default="burnguard.sqlite",
    show_default=True,
    envvar="BURNGUARD_LEDGER",
    help="Where incidents, orders, receipts and usage are kept: a file, or postgresql://user@host/database.",
)
tokens_option = click.option(
    "--tokens",
    type=FILE,
    help="Who may send over HTTP: names and hashes of tokens (YAML or JSON); it is read again when it changes.",
)
sources_option = click.option("--sources", type=FILE, help="Which fields of a source give tenant and key (YAML or JSON).")
policy_option = click.option("--policy", type=FILE, help="What to do about incidents (YAML); else the recommended policy.")


def policy_of(path: Path | None) -> Policy:
    return recommended() if path is None else read_document(path, Policy)


def directory_of(path: Path | None) -> Directory:
    return Directory() if path is None else read_document(path, Directory)


def prices_of(path: Path | None) -> list[Entry]:
    """The entries; says which models are self-hosted for nothing."""
    entries = [] if path is None else list(read_document(path, PriceList).root)
    for entry in entries:
        if isinstance(entry, SelfHosted) and entry.self_hosted is None:
            click.echo(f"{path}: {entry.model} is self-hosted and has no price: its calls cost nothing", err=True)
    return entries


def sources_of(path: Path | None) -> Sources:
    return Sources({}) if path is None else read_document(path, Sources)
