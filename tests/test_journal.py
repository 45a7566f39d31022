"""`burnguard run --tokens`: what was answered with 200 is counted once, whatever was killed, cut or full meanwhile."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from schemas.directory import Directory
from schemas.prices import PriceList
from stream import journal as journals
from stream.checkpoint import Pointer
from stream.documents import recommended
from stream.journal import Journal
from stream.partition import Away
from stream.passing import Outgoing, Sink
from stream.quarantine import QuarantineFile
from stream.run import Run
from stream.settings import Settings
from stream.sources import BrokenFile
from tests.foreign import body
from tests.intakes import PRODUCERS, Answered, Listening, MemoryKafka
from tests.test_resume import COMMAND, spent, totals, used
from tests.test_run import BURN_AT, PRICES, burnguard, event, history
from tests.workers import eventually

NANO_OF_CALL = 1000 * 1500 + 100 * 7250
"""What `event` costs by PRICES."""


@dataclass
class Running:
    """A `burnguard run --tokens` that is its own process."""

    process: subprocess.Popen[bytes]
    intake: Listening
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 0, self.said
        return self.said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    (tmp_path / "tokens.json").write_text(json.dumps(PRODUCERS))
    return tmp_path


@contextmanager
def running(folder: Path, *more: str, ledger: Path | None = None, **environment: str) -> Iterator[Running]:
    output = folder / f"said-{time.monotonic_ns()}"
    files = ["--tokens", str(folder / "tokens.json"), "--prices", str(folder / "prices.json")]
    command = [*COMMAND, *files, *more, "--ledger", str(ledger or folder / "l.sqlite")]
    with output.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | {"BURNGUARD_INTAKE_PORT": "0"} | environment
        )

    def address() -> str | None:
        assert process.poll() is None, output.read_text()
        found = re.search(r"listening  (\S+)\n", output.read_text())
        return found[1] if found else None

    try:
        eventually(address, 90, "it listens")
        where = urlsplit(str(address()))
        yield Running(process, Listening((str(where.hostname), where.port or 0), MemoryKafka()), output)
    finally:
        process.kill()
        process.wait()


def send(intake: Listening, events: Sequence[dict[str, Any]]) -> Answered:
    return intake.post("/v1/usage/native", body(list(events)))


def now_events(ids: Sequence[int], **more: Any) -> list[dict[str, Any]]:
    return [event(n, time.time(), f"key-{n % 50}", **more) for n in ids]


def usd_of(calls: int) -> str:
    return f"{calls * NANO_OF_CALL / 1e9:,.2f}"


def kept(folder: Path) -> list[dict[str, Any]]:
    """The lines of the journal; each must be whole."""
    segments = sorted((folder / "l.journal").glob("*.ndjson"))
    return [json.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]


def checkpoints(folder: Path) -> int:
    """How many were written so far."""
    line = (folder / "l.journal/checkpoint").read_bytes().partition(b"\n")[0]
    return Pointer.read(line.decode()).number


def test_nothing_that_was_acknowledged_is_lost_or_counted_twice_though_it_is_killed_at_any_moment(folder: Path) -> None:
    rng, kills, bodies, size = random.Random(3), 6, 60, 40
    now: list[Listening] = []
    again = [0]
    done = threading.Event()

    def sender(first: int) -> None:
        n = first
        while not done.is_set() or n < first + bodies:
            events = now_events(range(n * size, (n + 1) * size))
            while True:
                try:
                    if now and send(now[-1], events).status == 200:
                        break
                except (OSError, HTTPException):
                    again[0] += 1
                time.sleep(0.01)
            n += 1
        sent.append((n - first) * size)

    sent: list[int] = []
    senders = [threading.Thread(target=sender, args=(100_000 * s,)) for s in range(3)]
    for thread in senders:
        thread.start()
    for _ in range(kills):
        with running(folder, BURNGUARD_CHECKPOINT_S="0.2") as run:
            now.append(run.intake)
            time.sleep(0.3 + rng.random() * 1.5)
            run.process.kill()
    done.set()
    with running(folder, BURNGUARD_CHECKPOINT_S="0.2") as run:
        now.append(run.intake)
        for thread in senders:
            thread.join()
        said = run.stop()
    assert again[0] >= kills, "bodies were cut off by kills"
    assert totals(said, "in all")[:2] == (sum(sent), usd_of(sum(sent)))
    assert spent(used(folder, "l")) == (sum(sent), usd_of(sum(sent)))


def test_what_was_refused_is_listed_and_counted_over_restarts(folder: Path) -> None:
    with running(folder, BURNGUARD_CHECKPOINT_S="0.1") as run:
        answer = send(run.intake, [*now_events(range(3)), event(9, -1, "k")])
        assert (answer.json["taken"], answer.json["refused"]) == (3, 1)
        eventually(lambda: checkpoints(folder) > 1, 10, "there is a checkpoint")
        assert send(run.intake, [event(10, -1, "k")]).status == 422
        run.process.kill()
    with (folder / "l.quarantine.jsonl").open("ab") as file:
        file.write(b'{"reason":"half a r')
    with running(folder) as run:
        assert send(run.intake, [event(11, -1, "k")]).status == 422
        said = run.stop()
    assert totals(said, "in all") == (3, usd_of(3), 3)
    rows = [json.loads(row) for row in (folder / "l.quarantine.jsonl").read_bytes().splitlines()]
    assert [row["field"] for row in rows] == ["ts", "ts", "ts"]


def test_while_nobody_sends_the_clock_goes_on_and_a_burn_is_seen(folder: Path) -> None:
    past = [{**e, "ts": e["ts"] - 1_780_000_000 + time.time() - BURN_AT - 60} for e in history(burn=False)]
    (folder / "past.ndjson").write_text("".join(json.dumps(e) + "\n" for e in past))
    with running(folder, "--history", str(folder / "past.ndjson")) as run:
        burn = [event(10_000 + n, time.time(), "key-1", output_tokens=150_000) for n in range(20)]
        assert send(run.intake, burn).status == 200
        eventually(lambda: "INCIDENT  spend_spike of acme/key-1" in run.said, 20, "the burn is seen")


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(at)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.mark.parametrize("whole", [False, True])
def test_a_full_disk_is_said_and_answered_and_gone_on_from(folder: Path, whole: bool) -> None:
    """The journal's alone, and the one of everything: ledger, quarantine, checkpoint."""
    with small_disk(folder / "disk") as disk:
        if not whole:
            (folder / "l.journal").symlink_to(disk)
        ledger = disk / "l.sqlite" if whole else folder / "l.sqlite"
        ballast = disk / "ballast"
        with running(folder, ledger=ledger, BURNGUARD_CHECKPOINT_S="0.2") as run:
            ballast.write_bytes(b"x" * (1 << 20))
            taken, n = 0, 0
            while (answer := send(run.intake, now_events(range(n, n + 100)))).status == 200:
                taken, n = taken + 100, n + 100
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert run.intake.ask("GET", "/ready").status == 503
            eventually(lambda: "DISK      the journal cannot be written: No space left on device" in run.said, 5, "said")
            assert 'burnguard_disk_failing{what="journal"} 1.0' in run.intake.ask("GET", "/metrics").body.decode()
            assert run.said.count("the journal cannot be written") == 1
            ballast.unlink()
            assert send(run.intake, now_events(range(n, n + 100))).status == 200
            assert run.intake.ask("GET", "/ready").status == 200
            eventually(lambda: "GOING ON  the journal is written again; nothing was lost" in run.said, 5, "said")
            assert 'burnguard_disk_failing{what="journal"} 0.0' in run.intake.ask("GET", "/metrics").body.decode()
            said = run.stop()
        folder_of = disk if whole else folder
        assert totals(said)[:2] == (taken + 100, usd_of(taken + 100))
        assert [call["event_id"] for call in kept(folder_of)] == [f"e{k}" for k in range(taken + 100)]


def test_a_second_run_on_the_same_journal_is_refused(folder: Path) -> None:
    with running(folder) as run:
        command = [*COMMAND, "--tokens", str(folder / "tokens.json"), "--ledger", str(folder / "l.sqlite")]
        environment = os.environ | {"BURNGUARD_INTAKE_PORT": "0"}
        second = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (second.returncode, "another burnguard run writes this journal" in second.stderr) == (1, True)
        assert send(run.intake, now_events([1])).status == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calls.ndjson", "--tokens", "tokens.json"), "either SOURCE, or --tokens FILE, to listen"),
        (("--sources", "tokens.json"), "--sources is for --tokens FILE"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "calls.ndjson").touch()
    result = burnguard("run", *arguments)
    assert (result.exit_code, said in result.output) == (2, True)


class InMemory:
    """A `Run` on a journal without a socket: what a test delivers is what was taken."""

    def __init__(self, folder: Path, every_s: float = 0.0) -> None:
        self.said: list[str] = []
        prices = PriceList.model_validate(PRICES).root
        settings = Settings(checkpoint_s=every_s)
        self._run = Run(recommended(), Directory(), prices, settings, str(folder / "l.sqlite"), self.said.append)
        self._run.begin_journal(None)

    def take(self, bodies: Sequence[Sequence[dict[str, Any]]], pause_s: float = 0.0) -> str:
        async def serve(sink: Sink) -> None:
            for events in bodies:
                await sink.deliver([call(e) for e in events])
                await asyncio.sleep(pause_s)

        asyncio.run(self._run.go("-", serve))
        return "\n".join(self.said)


def call(of: dict[str, Any]) -> Outgoing:
    return Outgoing("usage", of["tenant"].encode(), json.dumps(of).encode())


def row(text: bytes) -> Outgoing:
    return Outgoing("quarantine", None, text)


def test_it_says_by_which_prices_calls_are_priced(folder: Path) -> None:
    assert re.match(r"prices     \S+\+[0-9a-f]{8}, 1 entries of your own\n", InMemory(folder).take([now_events([1])]))


def test_the_disk_that_the_journal_needs_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 20_000)
    most = 0
    for lap in range(3):
        bodies = [now_events(range(n, n + 50)) for n in range(lap * 2_000, lap * 2_000 + 2_000, 50)]
        said = InMemory(folder).take(bodies, pause_s=0.01)
        segments = list((folder / "l.journal").glob("*.ndjson"))
        most = max(most, sum(segment.stat().st_size for segment in segments))
    assert totals(said, "in all")[:2] == (6_000, usd_of(6_000))
    assert most < 100_000, "of a million bytes"


def test_a_segment_stays_until_two_checkpoints_hold_its_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1)
    InMemory(folder, every_s=60).take([now_events([1]), now_events([2])])
    assert [c["event_id"] for c in kept(folder)] == ["e1", "e2"], "one checkpoint, at the end"
    InMemory(folder, every_s=60).take([now_events([3])])
    assert [c["event_id"] for c in kept(folder)] == ["e3"]


def opened(folder: Path) -> tuple[Journal, list[OSError | None]]:
    troubles: list[OSError | None] = []
    return Journal(folder / "l.journal", QuarantineFile(folder / "q.jsonl"), troubles.append), troubles


async def test_nobody_is_answered_before_the_disk_has_it_and_many_share_one_fsync(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, go_on, fsync = [0], threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        assert go_on.wait(10)
        synced[0] += 1
        fsync(descriptor)

    journal, _ = opened(folder)
    journal.begin(0)
    monkeypatch.setattr(os, "fsync", slow)
    asked = [asyncio.create_task(journal.deliver([call(e)])) for e in now_events(range(100))]
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in asked)
    assert journal.read(0) == b""
    go_on.set()
    await asyncio.gather(*asked)
    assert synced[0] <= 2
    assert journal.read(0).count(b"\n") == 100
    journal.close()


async def test_a_clock_that_was_passed_on_is_before_every_later_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = opened(folder)
    journal.begin(0)
    monkeypatch.setattr(journals, "wall", lambda: 2_000_500)
    assert journal.now() == 2_000_500
    monkeypatch.setattr(journals, "wall", lambda: 1_000_000)
    assert journal.now() == 2_000_500
    await journal.deliver([call(event(1, 1.0, "k"))])
    assert json.loads(journal.read(0))["arrival_ts"] == 2_000.5
    journal.close()


@pytest.mark.parametrize("left", [1, 10, 300])
async def test_what_a_failed_write_left_is_cut_off_rows_too(folder: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    journal, troubles = opened(folder)
    journal.begin(0)
    await journal.deliver([call(event(1, 1.0, "k")), row(b'{"row":1}')])
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) <= left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, bytes(data)[: len(data) - left])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Away):
        await journal.deliver([call(event(2, 1.0, "k")), call(event(3, 1.0, "k")), row(b'{"row":2}')])
    monkeypatch.undo()
    await journal.deliver([call(event(4, 1.0, "k")), row(b'{"row":3}')])
    assert [json.loads(line)["event_id"] for line in journal.read(0).splitlines()] == ["e1", "e4"]
    assert (folder / "q.jsonl").read_bytes() == b'{"row":1}\n{"row":3}\n'
    assert [trouble is not None for trouble in troubles] == [False, True, False]
    journal.close()


def test_a_line_that_was_torn_by_a_crash_is_cut_off(folder: Path) -> None:
    InMemory(folder).take([now_events([1, 2])])
    (segment,) = (folder / "l.journal").glob("*.ndjson")
    for torn in (b'{"event_id":"e3","ts":17', b"\0" * 4_096):
        with segment.open("ab") as file:
            file.write(torn)
        InMemory(folder).take([now_events([3])])
    assert [c["event_id"] for c in kept(folder)] == ["e1", "e2", "e3", "e3"]
    assert totals(InMemory(folder).take([]), "in all")[::2] == (3, 0)


def test_a_journal_of_which_something_in_the_middle_is_gone_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1)
    InMemory(folder, every_s=60).take([now_events([n]) for n in range(4)])
    sorted((folder / "l.journal").glob("*.ndjson"))[1].unlink()
    with pytest.raises(BrokenFile, match="has not the"):
        InMemory(folder)


def test_without_its_segments_a_run_goes_on_from_its_checkpoint(folder: Path) -> None:
    InMemory(folder).take([now_events(range(10))])
    for segment in (folder / "l.journal").glob("*.ndjson"):
        segment.unlink()
    InMemory(folder).take([now_events(range(5, 15))])
    assert totals(InMemory(folder).take([]), "in all")[0] == 15
