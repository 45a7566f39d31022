"""How the parts are put together: bytes -> decoder -> pipeline -> responder, the same for every source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from detectors import mix
from detectors.base import PaneDetector
from detectors.spend import GATES_USD, Gates, SpendSpike
from schemas.batch import SLICE, Batch, Ms
from schemas.decode import Decoder
from schemas.prices import Entry
from schemas.pulse import Pulse
from schemas.signals import Signal, identity
from schemas.snapshot import Snapshot, joined, part
from stream.columns import MOST_KEYS
from stream.dedupe import NEWEST_IDS, SeenIds
from stream.grace import RULE
from stream.pipeline import Pipeline
from stream.pricing import PriceBook
from stream.responder import Responder
from stream.rows import Rows

AFTER_END: Ms = 15 * 60_000
"""How far the clock moves on when a file has ended."""
MADE_UP = b'{"event_id":"%d","ts":%d,"tenant":"t","key_id":"k","model":"m","input_tokens":1,"output_tokens":99999999}'
"""A call that costs much, by its id and when it was (epoch s)."""


def pane_detectors(gates_usd: Gates = GATES_USD) -> list[PaneDetector]:
    """Every detector of a partition; `gates_usd` are what a burn must cost to be told, one for each of WINDOWS."""
    return [SpendSpike(gates_usd=gates_usd)]


class Assembly:
    """One partition: its decoder and its pipeline with every detector; `config` is the hash of what it judges by.

    Its dedupe window holds `dedupe` ids, or grows up to `most`; it keeps `keys` keys (see Rows).
    """

    def __init__(
        self,
        prices: Sequence[Entry],
        dedupe: int = NEWEST_IDS,
        partition: int = 0,
        most: int | None = None,
        keys: int = MOST_KEYS,
    ) -> None:
        self.prices, judges = PriceBook(prices), pane_detectors()
        self.config = identity(self.prices.version, RULE, mix.RULE, f"keys {keys}", *(detector.config for detector in judges))
        self.decoder = Decoder()
        self.pipeline = Pipeline(
            self.prices,
            self.decoder,
            judges,
            seen=SeenIds(dedupe, most),
            rows=Rows(keys),
            partition=partition,
            config=self.config,
        )

    def snapshot(self) -> Snapshot:
        return joined(decoder=self.decoder.snapshot(), pipeline=self.pipeline.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, whatever it was judged by before. Raises BadCheckpoint."""
        self.decoder.restore(part(snapshot, "decoder"))
        self.pipeline.restore(part(snapshot, "pipeline"))


def made_up_burn(read: Callable[[Assembly, bytes, Ms], Batch]) -> Assembly:
    """A partition that a burn went through, so that its kernels are compiled: that takes up to a minute the first time.

    `read` decodes a line (without its end) that came at a clock, as the source does that is read later.
    """
    assembly = Assembly([])
    for n in range(3):
        assembly.pipeline.feed(read(assembly, MADE_UP % (n, 1_000_000 + n), 1_000_000_000 + n * 60_000))
    return assembly


class Fold(Protocol):
    """What is put together from pulses: at least how far behind a partition's clock its tenants are."""

    def fold(self, pulse: Pulse) -> None: ...
    def behind(self, partition: int) -> Mapping[str, Ms]: ...


def respond(
    words: Iterable[Signal | Pulse],
    responder: Responder,
    tenants: Fold,
    now: Ms | None,
    after: Callable[[Ms], None] = lambda now: None,
) -> None:
    """Let the responder hear signals and panes in time order; the last of them is a pulse, as in every step of a pipeline.

    `now` is wall time, None for a backtest, whose now is each pulse's clock; `after` is called behind every pane.
    """
    due: list[Signal] = []
    for said in words:
        if isinstance(said, Signal):
            due.append(said)
            continue
        at = said.clock if now is None else now
        if due:
            responder.hear(due, at)
            due = []
        tenants.fold(said)
        responder.pane(said.partition, said.clock - SLICE, said.burning, at, behind=tenants.behind(said.partition))
        if now is None:
            responder.tick(at)
        after(at)
