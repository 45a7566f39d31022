"""Gap: what should have come did not."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.batch import Ms
from schemas.signals import WHOLE_TENANT, Contribution, Evidence, Signal, identity

MOST_KEYS = 100_000


class SplitKeys:
    """A key whose calls come on two partitions: each sees only a part of what it spends. Producers must partition alike.

    Remembers the partition of the newest MOST_KEYS keys that a pulse has named.

    >>> from detectors.gap import SplitKeys
    >>> keys = SplitKeys()
    >>> keys.seen(0, [("acme", "key-1")], now=1_700_000_000_000)
    []
    >>> [s.key_id for s in keys.seen(1, [("acme", "key-1")], now=1_700_000_005_000)]
    ['key-1']
    """

    def __init__(self) -> None:
        self._home: dict[tuple[str, ...], int] = {}
        self._split: set[tuple[str, ...]] = set()

    def seen(self, partition: int, keys: Iterable[tuple[str, ...]], now: Ms) -> list[Signal]:
        """A signal for each key that was seen elsewhere before; once a key."""
        split = [k for k in keys if self._home.setdefault(k, partition) != partition and k not in self._split]
        self._split.update(split)
        while len(self._home) > MOST_KEYS:
            forgotten = next(iter(self._home))
            del self._home[forgotten]
            self._split.discard(forgotten)
        return [self._signal(tenant, key_id, partition, now) for tenant, key_id in split]

    def _signal(self, tenant: str, key_id: str, partition: int, now: Ms) -> Signal:
        told = Contribution(
            f"partitions that its calls come on, {self._home[tenant, key_id]} and {partition}", 2.0, 1.0, "partitions"
        )
        return _gap(identity("telemetry_gap", "split", tenant, key_id), tenant, key_id, told, partition, now, "")


def offset_gap(partition: int, first: int, lost: int, now: Ms, config: str) -> Signal:
    """`lost` records of a partition, from offset `first` on, were deleted before they were read.

    Nobody knows whose they were, so it is everybody's; it is told when it is noticed, however old the records.

    >>> from detectors.gap import offset_gap
    >>> offset_gap(3, 1000, 250, now=1_700_000_000_000, config="").evidence.observed
    250.0
    """
    told = Contribution(f"calls lost of partition {partition} from offset {first}", float(lost), 0.0, "calls")
    return _gap(identity("telemetry_gap", partition, first), WHOLE_TENANT, WHOLE_TENANT, told, partition, now, config)


def _gap(episode: str, tenant: str, key_id: str, told: Contribution, partition: int, now: Ms, config: str) -> Signal:
    """A signal that stands alone: it opens an episode that nobody clears."""
    evidence = Evidence(
        observed=told.observed,
        expected=told.expected,
        window=0,
        since=now,
        usd_per_hour=0.0,
        usd_so_far=0.0,
        hot_panes=0,
        learning=None,
        guessed_share=0.0,
        contributions=(told,),
    )
    return Signal(
        id=identity(episode, "open"),
        kind="telemetry_gap",
        phase="open",
        episode=episode,
        tenant=tenant,
        key_id=key_id,
        at=now,
        started=now,
        evidence=evidence,
        partition=partition,
        config=config,
    )
