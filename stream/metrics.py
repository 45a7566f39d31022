"""Every metric of a worker and of the intake once, with its meaning and unit (Prometheus)."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from schemas.batch import NANO, Ms
from schemas.decode import MOST_NAMES
from schemas.signals import Signal
from stream.skew import furthest

HEAD = """# Metrics of a worker

Served at `/metrics` on 127.0.0.1 and `BURNGUARD_WORKER_HTTP_PORT` (9464), beside `/health` (the process lives) and
`/ready` (all that it owns is loaded). Written by `python -m stream.metrics`.
How to read what is said of clocks: [producers](producers.md#settings).
"""
INTAKE_HEAD = """# Metrics of the intake

Served at `/metrics` of `burnguard intake`, and of `burnguard run --tokens`;
`producer` is a name in the file of tokens, or the topic that is read.
"""
AGES = (-3600.0, -300.0, -60.0, -30.0, -10.0, -5.0, -1.0, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

MOST_CLOCKS = 20

CALLS = Counter("burnguard_calls", "Calls folded, duplicates among them")
DUPLICATE = Counter("burnguard_duplicate", "Calls dropped because their event id was seen before")
LATE = Counter("burnguard_late", "Calls that came after their own slice had closed")
SKEWED = Counter("burnguard_skewed", "Calls more than a minute ahead of the clock, counted at the clock")
OTHER = Counter("burnguard_other", "Calls whose feature or operation is counted as `other`: there was no room for its name")
OTHER_MODEL = Counter("burnguard_other_model", "Calls whose model is priced and counted as `other`: 5,000 came before it")
OTHER_KEY = Counter(
    "burnguard_other_key", "Calls of new keys counted under their tenant's key `other`: no room for more keys"
)
EVICTED = Counter("burnguard_evicted", "Keys forgotten because a partition knew more than `BURNGUARD_WORKER_KEYS`")
UNMETERED = Counter("burnguard_unmetered", "Calls of a tenant, feature and model that found no room among the meters")
FORGOTTEN_SESSION = Counter("burnguard_forgotten_session", "Sessions that left their partition's table for newer ones")
SHARED_REQUEST = Counter(
    "burnguard_shared_request", "Calls whose request id more than 10 calls had within 10 minutes: not taken for retries"
)
USD = Counter("burnguard_usd", "Dollars that the folded calls cost")
PRICES = Info("burnguard_prices", "`version`: the price book, as `burnguard usage --by prices` names it")
QUARANTINED = Counter("burnguard_quarantined", "Lines refused and written to the quarantine topic")
UNKNOWN_FIELDS = Gauge(
    "burnguard_unknown_fields",
    "Fields that are none of ours, by name: of refused calls, and of one in 1,000 others",
    ["name"],
)
SKIPPED = Counter("burnguard_skipped", "Records fetched again that were folded before; grows only after a rebalance")
OFFSET_GAP = Counter("burnguard_offset_gap", "Records deleted by retention before they were read")
SIGNALS = Counter("burnguard_signals", "Signals said", ["kind", "phase"])
SIGNAL_DELAY = Histogram("burnguard_signal_delay_seconds", "From the end of the pane to the signal", buckets=SECONDS)
CHECKPOINT_STALL = Histogram("burnguard_checkpoint_stall_seconds", "Folding waits while the state is copied", buckets=SECONDS)
CHECKPOINT_SECONDS = Histogram("burnguard_checkpoint_seconds", "From the cut to the commit", buckets=SECONDS)
CHECKPOINT_BYTES = Counter("burnguard_checkpoint_bytes", "Compressed bytes of checkpoints written, their indexes too")
CHECKPOINT_BLOCKS = Counter(
    "burnguard_checkpoint_blocks",
    "Blocks of checkpoints: `changed` and written, `moved` (old and written again), `kept` where they lie",
    ["what"],
)
CHECKPOINT_INTERVAL = Gauge("burnguard_checkpoint_interval_seconds", "From the last round of checkpoints to the next")
RESTORE_SECONDS = Histogram("burnguard_restore_seconds", "Loading a partition", buckets=SECONDS)
FENCED = Counter("burnguard_fenced", "Commits that the group refused because it had moved on")
PARTITIONS = Gauge("burnguard_partitions", "Partitions loaded here")
LAG = Gauge("burnguard_lag", "Records behind the end of the partition", ["partition"])
UNCOMMITTED = Gauge("burnguard_uncommitted", "Records folded since the pointers that are committed")
CLOCK_AGE = Gauge("burnguard_clock_age_seconds", "How far the oldest clock of a partition is behind ours")
AHEAD = Gauge(
    "burnguard_tenant_clock_ahead_seconds",
    "How far the clock of a tenant's calls is ahead of the log's, below 0 behind: the 20 furthest off, by more than a second",
    ["tenant"],
)
POINTER_AGE = Gauge("burnguard_pointer_age_seconds", "Since the oldest pointer of a partition that has changed")

INTAKE = CollectorRegistry()
ProcessCollector(registry=INTAKE)
_WHOSE = ("producer", "source")
INTAKE_CALLS = Counter("burnguard_intake_calls", "Calls that are in Kafka, or in the journal", _WHOSE, registry=INTAKE)
INTAKE_REFUSED = Counter("burnguard_intake_refused", "Calls refused and written to the quarantine", _WHOSE, registry=INTAKE)
INTAKE_PASSED = Counter("burnguard_intake_passed", "What was told and is no call of its own", _WHOSE, registry=INTAKE)
INTAKE_ANSWERS = Counter("burnguard_intake_answers", "Requests answered, by HTTP status", ["status"], registry=INTAKE)
INTAKE_AWAY = Counter(
    "burnguard_intake_away",
    "Deliveries that failed: Kafka or the disk is away",
    registry=INTAKE,
)
INTAKE_HELD = Gauge("burnguard_intake_held_bytes", "Bytes of bodies that are not answered yet", registry=INTAKE)
INTAKE_DELIVERY = Histogram(
    "burnguard_intake_delivery_seconds", "Until a body's calls are safe", buckets=SECONDS, registry=INTAKE
)
INTAKE_AGE = Histogram(
    "burnguard_intake_age_seconds",
    "From a call's `ts` until it came; below 0 its producer's clock is ahead",
    _WHOSE,
    buckets=AGES,
    registry=INTAKE,
)
INTAKE_AHEAD = Gauge(
    "burnguard_intake_clock_ahead_seconds",
    "How far the clock of a producer is ahead of ours, below 0 behind; 0 within a second, or as long as it is not sure",
    _WHOSE,
    registry=INTAKE,
)
INTAKE_LAG = Gauge(
    "burnguard_intake_lag", "Records of the topic that is read, not delivered yet", ["partition"], registry=INTAKE
)
TOKENS_BROKEN = Gauge(
    "burnguard_intake_tokens_broken", "1: the file of tokens cannot be read, the tokens from before hold", registry=INTAKE
)
JOURNAL_BYTES = Gauge("burnguard_journal_bytes", "Bytes of the journal of `burnguard run` on disk", registry=INTAKE)
DISK_FAILING = Gauge(
    "burnguard_disk_failing", "1: `journal` (nothing is taken) or `checkpoint` cannot be written", ["what"], registry=INTAKE
)


class Written(Protocol):
    """What is measured of a checkpoint."""

    @property
    def bytes(self) -> int: ...
    @property
    def blocks(self) -> dict[str, int]: ...


class Standing(Protocol):
    """What is measured of a partition."""

    @property
    def next(self) -> int: ...
    @property
    def committed(self) -> int: ...
    @property
    def checkpointed_at(self) -> float: ...
    @property
    def changed(self) -> bool: ...
    @property
    def unknown_names(self) -> Counts[str]: ...


def folded(before: Mapping[str, int], after: Mapping[str, int], refused: int, again: int) -> None:
    """Count what one fold added."""
    counted = ((CALLS, "calls"), (DUPLICATE, "duplicate"), (LATE, "late"), (SKEWED, "skewed"), (OTHER, "other"))
    no_room = ((OTHER_MODEL, "other_model"), (OTHER_KEY, "other_key"), (EVICTED, "evicted"), (UNMETERED, "unmetered"))
    rest = ((FORGOTTEN_SESSION, "forgotten_session"), (SHARED_REQUEST, "shared_request"))
    for counter, name in (*counted, *no_room, *rest):
        counter.inc(after[name] - before[name])
    USD.inc((after["usd"] - before["usd"]) / NANO)
    QUARANTINED.inc(refused)
    SKIPPED.inc(again)


def said(signal: Signal, now: Ms) -> None:
    """Count a signal."""
    SIGNALS.labels(signal.kind, signal.phase).inc()
    SIGNAL_DELAY.observe(max(0, now - signal.at) / 1000)


def checkpointed(written: Written, seconds: float) -> None:
    """Count a checkpoint."""
    CHECKPOINT_BYTES.inc(written.bytes)
    for what, blocks in written.blocks.items():
        CHECKPOINT_BLOCKS.labels(what).inc(blocks)
    CHECKPOINT_SECONDS.observe(seconds)


def standing(lags: Mapping[int, int], partitions: Collection[Standing], clock_age: Ms, now: float) -> None:
    """Where the partitions stand; those that went away are not shown any more."""
    PARTITIONS.set(len(lags))
    LAG.clear()
    for number, lag in lags.items():
        LAG.labels(str(number)).set(lag)
    UNKNOWN_FIELDS.clear()
    for name, count in sum((p.unknown_names for p in partitions), Counts[str]()).most_common(MOST_NAMES):
        UNKNOWN_FIELDS.labels(name).set(count)
    CLOCK_AGE.set(clock_age / 1000)
    UNCOMMITTED.set(sum(p.next - p.committed for p in partitions))
    POINTER_AGE.set(max((now - p.checkpointed_at for p in partitions if p.changed), default=0.0))


def clocks(ahead: Mapping[str, Ms]) -> None:
    """The tenants whose clocks are off; those that are right again are not shown any more."""
    AHEAD.clear()
    for tenant, ms in furthest(ahead, MOST_CLOCKS):
        AHEAD.labels(tenant).set(ms / 1000)


def heard(producer: str, source: str, ages: Iterable[Ms], ahead: Ms) -> None:
    """What the calls of a body say of their producer's clock."""
    observe = INTAKE_AGE.labels(producer, source).observe
    for age in ages:
        observe(age / 1000)
    INTAKE_AHEAD.labels(producer, source).set(ahead / 1000)


def taken(producer: str, source: str, calls: int, refused: int, passed: int) -> None:
    """Count what the intake took of a body."""
    for counter, count in ((INTAKE_CALLS, calls), (INTAKE_REFUSED, refused), (INTAKE_PASSED, passed)):
        if count:
            counter.labels(producer, source).inc(count)


def page() -> str:
    """docs/metrics.md."""
    return f"{HEAD}\n{table(REGISTRY)}\n\n{INTAKE_HEAD}\n{table(INTAKE)}\n"


def table(registry: CollectorRegistry) -> str:
    """All metrics of ours."""
    ours = [m for m in registry.collect() if m.name.startswith("burnguard_")]
    suffix = {"counter": "_total", "info": "_info"}
    rows = [f"| `{m.name}{suffix.get(m.type, '')}` | {m.type} | {m.documentation} |" for m in ours]
    return "\n".join(["| metric | type | meaning |", "| --- | --- | --- |", *sorted(rows)])


if __name__ == "__main__":
    Path("docs/metrics.md").write_text(page())
