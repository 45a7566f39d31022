"""A worker's partitions over a log in memory: crashed at every operation, fenced, with gaps; its two protections off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from actions.usage import holds_more, used
from schemas.prices import PriceEntry
from schemas.pulse import PULSE, Pulse
from schemas.reading import READING, Reading
from schemas.rollup import USAGE, Rollup
from schemas.signals import SIGNAL, Signal
from stream.assembly import Assembly
from stream.blocks import Index, find
from stream.checkpoint import EMPTY, IN_BLOCKS, Buffer, Pointer, read_chunk_key
from stream.figures import Totals
from stream.health import SPANS
from stream.partition import Partition, StateLost
from stream.readings import ENDS
from stream.records import Fetched
from stream.settings import SettingsError, WorkerSettings
from stream.tenants import TenantMeters
from stream.worker import Worker, pause
from tests.memory_log import NAMES, SLOW_S, Crashed, Log, Member, as_fetched
from tests.story import Story

T0 = 1_790_000_000_000
PRICES = [PriceEntry(provider="p", model="m", effective_from=0, input=1.0, output=0.0, unit="USD per 1M tokens")]
HOUR = 3_600_000
CALM, BURN, BATCH = 120, 24, 12


def calls() -> list[tuple[int, bytes]]:
    """(clock, line): four calm hours of three keys, then one burns $360 a minute; poison now and then; one call ends it."""
    out = []
    for n in range(CALM + BURN):
        at = T0 + min(n, CALM) * 120_000 + max(0, n - CALM) * 5_000
        out.append((at, _event(n, at, f"key-{n % 3}", 10_000)))
        if n % 12 == 0:
            out.append((at, b'{"broken": true}'))
        out += [(at, _event(10_000 + n, at, "key-0", 30_000_000))] if n >= CALM else []
    return [*out, (at + 600_000, _event(999, at + 600_000, "key-1", 10_000))]


def _event(n: int, at: int, key: str, tokens: int) -> bytes:
    event = {"event_id": f"e{n}", "ts": at / 1000, "tenant": f"t-{key}", "key_id": key, "provider": "p", "model": "m"}
    return json.dumps({**event, "input_tokens": tokens, "output_tokens": 0}).encode()


CALLS = calls()
BATCHES = [as_fetched(CALLS[at : at + BATCH], at) for at in range(0, len(CALLS), BATCH)]


def new_log() -> Log:
    return Log(usage=len(CALLS))


def worker(member: Member, kind: type[Worker] = Worker) -> Worker:
    return kind(member, member, NAMES, PRICES, checkpoint_s=0.0, clock=lambda: T0)


async def play(member: Member, kind: type[Worker] = Worker, batches: Sequence[Fetched] = BATCHES) -> Worker:
    """Feed what the log holds from the committed offset on, with a checkpoint after every third batch."""
    mine = worker(member, kind)
    committed = member._log.commits.get(0, (0, ""))[0]
    for n, fetched in enumerate(batches):
        if fetched.end > committed:
            await mine.take(0, member.generation, [fetched])
            if n % 3 == 2:
                await mine.checkpoint()
    await mine.checkpoint()
    await asyncio.sleep(2 * SLOW_S)
    return mine


def said(log: Log) -> tuple[dict[str, Signal], dict[str, int], set[tuple[int, str]], dict[str, Any], list[Totals]]:
    """Signals by id, what the tenants spent, refused lines (offset, reason), cells of usage, what the meters stand at."""
    signals, meters, cells = {}, TenantMeters(), dict[str, Any]()
    for key, value in log.records["signals", 0]:
        if key == SIGNAL:
            signals[Signal.read(value).id] = Signal.read(value)
        elif key == USAGE:
            for row in used(Rollup.read(value), "usage"):
                if row["cell"] not in cells or holds_more(row, cells[row["cell"]]):
                    cells[row["cell"]] = row
        elif key == READING:
            meters.readings.fold(Reading.read(value, ENDS))
        else:
            assert key == PULSE
            meters.fold(Pulse.read(value))
    readings, end = meters.readings, CALLS[-1][0]
    stand = [readings.totals(whose, span, end) for whose in readings.known() for span in SPANS]
    refused = {(row["position"], row["reason"]) for row in map(json.loads, (v for _, v in log.records["quarantine", 0]))}
    return signals, meters.spent(6 * HOUR), refused, cells, stand


def state(log: Log) -> Any:
    """Counters of the committed state."""
    offset, metadata = log.commits[0]
    member = Member(log)
    assembly = Assembly(PRICES)
    assembly.restore(asyncio.run(find(member, 0, Pointer.read(metadata))).fill(Buffer())[0].state)
    return offset, assembly.pipeline.counters


@pytest.fixture(scope="module")
def truth() -> tuple[Any, Any]:
    log = new_log()
    asyncio.run(play(Member(log)))
    return said(log), state(log)


def test_the_story_has_a_burn_and_poison(truth: tuple[Any, Any]) -> None:
    (signals, spent, refused, cells, stand), (offset, counters) = truth
    assert {s.kind for s in signals.values()} == {"spend_spike"}
    assert len(refused) == 12
    assert (offset, counters["calls"]) == (len(CALLS), len(CALLS) - 12)
    assert counters["usd"] == (CALM + BURN + 1) * 10_000_000 + BURN * 30_000_000_000
    assert sum(spent.values()) == counters["usd"] - 10_000_000
    assert BURN * 30_000_000_000 < stand[1].usd < (BURN + 1) * 30_000_000_000, "the fleet's last hour"
    assert sum(row["usd"] for row in cells.values()) == counters["usd"] - 10_000_000, "the last call's minute is not over"


def crash_and_go_on(crash_at: int, kind: type[Worker] = Worker) -> Log:
    """One worker dies at an operation; the next one goes on to the end."""
    log = new_log()
    try:
        asyncio.run(play(Member(log, crash_at), kind))
    except Crashed:
        asyncio.run(play(Member(log), kind))
    return log


def operations() -> list[str]:
    """What an undisturbed worker asks of the log, in order."""
    member = Member(new_log())
    asyncio.run(play(member))
    return member.operations


def at_commits(after: int = 0) -> list[int]:
    return [n + after for n, name in enumerate(operations()) if name == "commit"]


def test_crashed_at_any_operation_no_call_is_lost_or_doubled_and_no_word_is_lost(truth: tuple[Any, Any]) -> None:
    points = sorted({*range(0, len(operations()), 12), *at_commits(), *at_commits(after=1)})
    assert len(points) > 20
    for crash_at in points:
        log = crash_and_go_on(crash_at)
        assert (said(log), state(log)) == truth, f"crashed at operation {crash_at}"


class CommitsBeforeTheAcks(Worker):
    """The control: what was said is not waited for."""

    async def _save(self, partition: Partition) -> None:
        partition.waiting.clear()
        await super()._save(partition)


class NewestState(Member):
    """The control: the newest index in the log instead of the one that the pointer means."""

    async def committed(self, partition: int) -> tuple[int, str] | None:
        found, records = await super().committed(partition), self._log.records["state", partition]
        if found is None or not records:
            return found
        generation, number, _ = read_chunk_key(records[-1][0] or b"")
        return found[0], Pointer.to([records[-1][1]], generation, number, len(records) - 1, IN_BLOCKS).to_metadata()


def test_committing_before_the_words_are_acknowledged_loses_some(truth: tuple[Any, Any]) -> None:
    logs = [crash_and_go_on(crash_at, CommitsBeforeTheAcks) for crash_at in at_commits(after=1)]
    assert any(said(log) != truth[0] for log in logs)
    assert all(state(log) == truth[1] for log in logs)


def test_restoring_the_newest_state_instead_of_the_pointers_counts_calls_twice(truth: tuple[Any, Any]) -> None:
    wrong = 0
    for crash_at in at_commits():
        log = new_log()
        with suppress(Crashed):
            asyncio.run(play(NewestState(log, crash_at)))
        asyncio.run(play(NewestState(log)))
        wrong += state(log) != truth[1]
    assert wrong


@pytest.mark.parametrize(
    ("took_s", "written", "waits"),
    [(0.1, 0, 5.0), (0.7, 0, 7.0), (0.1, 80_000_000, 8.0), (0.7, 60_000_000, 7.0), (0.1, 10**9, 60.0), (9.0, 0, 60.0)],
)
def test_the_next_round_of_checkpoints_waits_for_time_and_bandwidth_but_never_beyond_its_longest(
    took_s: float, written: int, waits: float
) -> None:
    assert pause(5.0, 60.0, 10e6, took_s, written) == pytest.approx(waits)


async def test_a_worker_says_how_long_it_waits_and_what_it_wrote() -> None:
    before, member = REGISTRY.get_sample_value("burnguard_checkpoint_bytes_total") or 0.0, Member(new_log())
    mine = Worker(member, member, NAMES, PRICES, checkpoint_s=0.0, longest_s=60.0, bytes_s=100.0, clock=lambda: T0)
    await mine.take(0, member.generation, [BATCHES[0]])
    waits = await mine.checkpoint()
    written = (REGISTRY.get_sample_value("burnguard_checkpoint_bytes_total") or 0.0) - before
    assert written == sum(len(value) for _, value in member._log.records["state", 0])
    assert waits == pytest.approx(written / 100.0)
    assert REGISTRY.get_sample_value("burnguard_checkpoint_interval_seconds") == waits


def test_a_worker_that_would_count_as_stuck_while_it_waits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNGUARD_WORKER_STUCK_S", "30")
    monkeypatch.setenv("BURNGUARD_WORKER_CHECKPOINT_S", "15")
    assert WorkerSettings().longest_s == 15
    monkeypatch.setenv("BURNGUARD_WORKER_CHECKPOINT_S", "16")
    with pytest.raises(SettingsError, match="CHECKPOINT_S: 16 is more than half of BURNGUARD_WORKER_STUCK_S"):
        WorkerSettings()


async def test_a_zombie_may_not_commit_and_forgets_its_partition() -> None:
    log = new_log()
    zombie = await play(Member(log), batches=BATCHES[:2])
    await zombie.take(0, 1, [BATCHES[2]])
    assert zombie.partitions[0].changed
    await play(Member(log))
    before = log.commits[0]
    await zombie.checkpoint()
    assert log.commits[0] == before
    assert not zombie.partitions


async def test_memory_is_kept_where_the_pointer_is_unchanged_and_what_was_folded_is_passed_over() -> None:
    log = new_log()
    member = Member(log)
    mine = await play(member, batches=BATCHES[:3])
    await mine.take(0, member.generation, [BATCHES[3]])
    kept, calls = mine.partitions[0], mine.partitions[0].assembly.pipeline.counters["calls"]
    member.generation = log.generation = 2
    await mine.take(0, 2, [BATCHES[3]])
    assert mine.partitions[0] is kept
    assert kept.assembly.pipeline.counters["calls"] == calls


async def test_a_message_of_a_generation_that_is_over_is_not_folded() -> None:
    member = Member(new_log())
    mine = worker(member)
    await mine.take(0, member.generation - 1, [BATCHES[0]])
    assert not mine.partitions


async def test_calls_that_were_deleted_before_they_were_read_are_counted_and_told() -> None:
    log = new_log()
    member = Member(log)
    mine = await play(member, batches=BATCHES[:1])
    log.first["usage", 0] = 3 * BATCH + 7
    await mine.take(0, member.generation, [as_fetched(CALLS[3 * BATCH + 7 : 4 * BATCH], 3 * BATCH + 7)])
    await mine.checkpoint()
    gaps = [s for s in said(log)[0].values() if s.kind == "telemetry_gap"]
    assert [s.evidence.observed for s in gaps] == [2 * BATCH + 7]
    assert log.commits[0][0] == 4 * BATCH
    assert not member.sought


async def test_calls_that_are_only_not_fetched_yet_are_fetched_again() -> None:
    member = Member(new_log())
    mine = await play(member, batches=BATCHES[:1])
    await mine.take(0, member.generation, [BATCHES[2]])
    assert member.sought == [(0, BATCH)]
    assert mine.partitions[0].next == BATCH


async def test_what_was_fetched_and_dropped_is_asked_for_again_though_nothing_new_comes() -> None:
    member = Member(new_log())
    mine = await play(member, batches=BATCHES[:1])
    await mine.tick()
    assert member.sought == []
    mine.partitions[0].folded_at -= 6
    await mine.tick()
    await mine.tick()
    assert member.sought == [(0, BATCH)]


async def test_it_refuses_to_start_over_where_only_the_commit_is_gone() -> None:
    log = new_log()
    await play(Member(log), batches=BATCHES[:1])
    del log.commits[0]
    with pytest.raises(StateLost, match="its offsets expired or were deleted"):
        await play(Member(log))


async def test_it_refuses_a_log_that_ends_before_the_checkpoint() -> None:
    log = new_log()
    await play(Member(log))
    log.records["usage", 0] = []
    with pytest.raises(StateLost, match="was made anew"):
        await worker(Member(log)).take(0, log.generation, [BATCHES[0]])


async def test_a_first_start_says_so_before_it_folds() -> None:
    log = new_log()
    member = Member(log)
    await worker(member).take(0, member.generation, [BATCHES[0]])
    assert log.commits[0] == (0, EMPTY)


class Remembering(Member):
    """Knows every pointer that it committed."""

    async def commit(self, partition: int, offset: int, metadata: str, generation: int) -> None:
        await super().commit(partition, offset, metadata, generation)
        self.pointers = [*getattr(self, "pointers", []), metadata]


async def test_what_the_last_two_checkpoints_need_is_kept_and_nothing_older() -> None:
    log = new_log()
    member = Remembering(log)
    await play(member)
    last_two = [Pointer.read(metadata) for metadata in member.pointers[-2:]]
    named = [Index.read(await member.read_state(0, pointer), pointer).offsets for pointer in last_two]
    assert log.first["state", 0] == min(sum(named, [pointer.first for pointer in last_two])) > 0
    for pointer in last_two:
        (await find(member, 0, pointer)).fill(Buffer())


COMPILES_NOTHING = """
import asyncio
from numba.core import dispatcher
from stream.app import compile_kernels
compile_kernels()
def compile(self, signature):
    raise SystemExit(f"compiled late: {self.py_func.__name__}{signature}")
dispatcher.Dispatcher.compile = compile
from tests.test_worker import Member, new_log, play
log = new_log()
asyncio.run(play(Member(log)))
asyncio.run(play(Member(log)))
"""


def test_nothing_is_compiled_after_the_group_counts_on_us() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILES_NOTHING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_new_group_reads_the_retained_log_says_how_far_it_is_and_nothing_of_it_is_acted_on(tmp_path: Path) -> None:
    log, now = new_log(), CALLS[-1][0] + 60_000 + 4 * HOUR
    member = Member(log)
    mine = Worker(member, member, NAMES, PRICES, checkpoint_s=0.0, clock=lambda: now)

    async def read() -> list[Any]:
        with capture_logs() as logs:
            for fetched in BATCHES:
                await mine.take(0, member.generation, [fetched])
                await mine.tick()
            await asyncio.sleep(2 * SLOW_S)
        return [entry for entry in logs if entry["event"] in ("catching up", "caught up")]

    first, last = asyncio.run(read())
    assert (first["read"], first["left"], first["share"]) == (BATCH, len(CALLS) - BATCH, "7 %")
    assert (last["event"], last["read"]) == ("caught up", len(CALLS))
    signals = said(log)[0].values()
    assert {signal.phase for signal in signals} >= {"open", "update"}
    story = Story(str(tmp_path / "l.sqlite"))
    story.now = now
    story.hear(*signals)
    assert (story.told, story.hook.posts) == ([], [])
