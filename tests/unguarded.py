"""A responder whose ledger does not check the epoch: what the check protects from."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

import click
import structlog
from sqlalchemy import Connection, select

from actions.ledger import Ledger
from actions.tables import epochs
from schemas.batch import Ms
from schemas.directory import Directory
from schemas.policy import Policy
from stream.documents import read_document
from stream.logs import configure
from stream.settings import KafkaSettings, Settings
from stream.standby import Standby


class Unguarded(Ledger):
    """Lets everybody write, and says when it was a zombie."""

    def _hold(self, connection: Connection, now: Ms | None) -> None:
        if connection.execute(select(epochs.c.epoch)).scalar() != self.epoch:
            structlog.get_logger().error("a zombie wrote", epoch=self.epoch)


def main() -> None:
    """responder --policy FILE --ledger NAME"""
    configure()
    policy, ledger = read_document(Path(sys.argv[3]), Policy), partial(Unguarded, sys.argv[5])
    asyncio.run(Standby(ledger, policy, Directory(), Settings(), KafkaSettings(), click.echo).go())
