"""Gap: what should have come did not."""

from __future__ import annotations

from schemas.batch import Ms
from schemas.signals import WHOLE_TENANT, Contribution, Evidence, Signal, identity


def offset_gap(partition: int, first: int, lost: int, now: Ms, config: str) -> Signal:
    """`lost` records of a partition, from offset `first` on, were deleted before they were read.

    Nobody knows whose they were, so it is everybody's; it is told when it is noticed, however old the records.

    >>> from detectors.gap import offset_gap
    >>> offset_gap(3, 1000, 250, now=1_700_000_000_000, config="").evidence.observed
    250.0
    """
    episode = identity("telemetry_gap", partition, first)
    evidence = Evidence(
        observed=float(lost),
        expected=0.0,
        window=0,
        since=now,
        usd_per_hour=0.0,
        usd_so_far=0.0,
        hot_panes=0,
        learning=None,
        guessed_share=0.0,
        contributions=(Contribution(f"calls lost of partition {partition} from offset {first}", float(lost), 0.0, "calls"),),
    )
    return Signal(
        id=identity(episode, "open"),
        kind="telemetry_gap",
        phase="open",
        episode=episode,
        tenant=WHOLE_TENANT,
        key_id=WHOLE_TENANT,
        at=now,
        started=now,
        evidence=evidence,
        partition=partition,
        config=config,
    )
