"""`burnguard run` on a file: killed, it goes on where it was; what it said and counted is as if it had never stopped."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from actions.ledger import Ledger
from actions.usage import DIMENSIONS
from stream.checkpoint import Buffer, Pointer
from stream.checkpoint_file import CheckpointFile
from tests.test_run import PRICES, burnguard, event, history

COMMAND = [sys.executable, "-c", "from stream.cli import main; main()", "run"]
LINES = 300_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    return tmp_path


def arguments(folder: Path, ledger: str, source: str = "calls.ndjson") -> list[str]:
    return [str(folder / source), "--prices", str(folder / "prices.json"), "--ledger", str(folder / f"{ledger}.sqlite")]


def run(folder: Path, ledger: str, *more: str | Path, source: str = "calls.ndjson") -> Result:
    said = burnguard("run", *arguments(folder, ledger, source), *more)
    assert said.exit_code == 0, said.output
    return said


def write(path: Path, lines: list[str], mode: str = "w") -> None:
    with path.open(mode) as file:
        file.writelines(lines)


def with_refused(events: list[dict[str, Any]]) -> list[str]:
    lines = [json.dumps(e) + "\n" for e in events]
    for n in range(0, len(lines), 400):
        lines[n] += f'{{"broken": {n}\n'
    return lines


def large(path: Path) -> int:
    """Eight hours that are not old yet, with duplicates and broken lines; a key burns early and another one late."""
    rng, start = random.Random(5), time.time() // 1 + 3600
    with path.open("w") as file:
        for n in range(LINES):
            hot = 50_000 <= n < 51_500 or 240_000 <= n < 241_500
            key, tokens = ("key-7" if n < 100_000 else "key-9", 40_000) if hot and n % 2 else (f"key-{rng.randrange(50)}", 10)
            row = json.dumps(event(n - (n % 1000 == 2), round(start + n * 0.1, 1), key, output_tokens=tokens)) + "\n"
            file.write(row if n % 500 else "{broken " + row)
    return path.stat().st_size


def totals(said: str, line: str = "summary") -> tuple[int, str, int]:
    """Calls, USD and refused lines, as a line of the output says them."""
    found = re.search(line + r"\s+(\d+) calls, \$([\d,.]+)[^\n]* (\d+) lines quarantined", said)
    assert found, said
    return int(found[1]), found[2], int(found[3])


def incidents(folder: Path, ledger: str) -> list[Any]:
    with sqlite3.connect(folder / f"{ledger}.sqlite") as db:
        rows = [json.loads(row) for (row,) in db.execute("SELECT row FROM incidents ORDER BY id")]
        signals = db.execute("SELECT id, at, incident, fate FROM signals ORDER BY id").fetchall()
    return [signals, [(r["id"], r["kind"], r["key_id"], r["episodes"], r["evidence"]) for r in rows]]


def used(folder: Path, ledger: str) -> list[Any]:
    """Hourly usage, and that it comes to what the run says."""
    opened = Ledger(f"{folder / ledger}.sqlite")
    rows = opened.usage(("hour", *DIMENSIONS), range(2**31 - 1), {})
    opened.close()
    return sorted(rows)


def spent(rows: list[Any]) -> tuple[int, str]:
    """Calls and USD, as a line of the output says them."""
    at = 1 + len(DIMENSIONS)
    return sum(row[at] for row in rows), f"{sum(row[at + 1] for row in rows) / 1e9:,.2f}"


def pointer(folder: Path, ledger: str) -> Pointer | None:
    path = folder / f"{ledger}.checkpoint"
    return Pointer.read(path.read_bytes().partition(b"\n")[0].decode()) if path.exists() else None


def beyond(folder: Path) -> int:
    """Bytes of refused lines that no checkpoint covers yet."""
    covered = CheckpointFile(folder / "killed.checkpoint").read(Buffer())
    rows = folder / "killed.quarantine.jsonl"
    return rows.stat().st_size - covered.numbers["quarantine_bytes"] if covered and rows.exists() else 0


def killed(folder: Path, checkpoint: int, every_s: float, uncovered: bool) -> int | None:
    """Start a run, SIGKILL it when it has written so many checkpoints, and has folded more since if `uncovered`.

    Returns what it had refused since its last checkpoint, None where it had ended by itself.
    """
    environment = {**os.environ, "BURNGUARD_CHECKPOINT_S": str(every_s)}
    process = subprocess.Popen([*COMMAND, *arguments(folder, "killed")], stdout=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        reached = pointer(folder, "killed")
        if reached is not None and reached.number >= checkpoint and (beyond(folder) > 0 or not uncovered):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    return beyond(folder) if process.wait() == -signal.SIGKILL else None


def test_a_run_that_is_killed_again_and_again_counts_and_says_the_same_as_one_that_is_not(folder: Path) -> None:
    size = large(folder / "calls.ndjson")
    whole = run(folder, "whole")
    assert len(incidents(folder, "whole")[1]) == 2
    rounds = ((1, 0.5, True), (2, 0.5, True), (3, 0.0, False), (4, 0.5, True))
    lost = [killed(folder, *how) for how in rounds]
    assert sum(some is not None and some > 0 for some in lost) >= 2, lost
    last = run(folder, "killed")
    assert totals(last.output, "in all") == totals(whole.output)
    restored, read = totals(last.output, "restored"), totals(last.output)
    assert restored[0] + read[0] == totals(whole.output)[0]
    assert restored[2] + read[2] == totals(whole.output)[2] == LINES // 500
    assert 0 < int(re.search(r"going on at byte (\d+)", last.output)[1]) < size  # type: ignore[index]  # it is there, see totals
    assert (folder / "killed.quarantine.jsonl").read_bytes() == (folder / "whole.quarantine.jsonl").read_bytes()
    assert incidents(folder, "killed") == incidents(folder, "whole")
    assert used(folder, "killed") == used(folder, "whole")
    assert spent(used(folder, "whole")) == totals(whole.output)[:2]


def test_without_its_checkpoint_a_run_lists_refused_lines_twice(folder: Path) -> None:
    write(folder / "calls.ndjson", with_refused(history()))
    run(folder, "l")
    once = (folder / "l.quarantine.jsonl").read_bytes()
    again = run(folder, "l")
    assert (folder / "l.quarantine.jsonl").read_bytes() == once
    assert totals(again.output, "in all")[2] == once.count(b"\n")
    counted = used(folder, "l")
    (folder / "l.checkpoint").unlink()
    run(folder, "l")
    assert (folder / "l.quarantine.jsonl").read_bytes() == 2 * once
    assert used(folder, "l") == counted
    assert spent(counted) == totals(again.output, "in all")[:2]


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_file_has_grown_by_is_read_by_the_next_run(folder: Path, packed: bool) -> None:
    lines = with_refused(history())
    whole = "".join(lines).encode()
    cuts = [0, len(whole) // 3, len(whole) // 3 + 5, 2 * len(whole) // 3, len(whole)]
    name = "calls.ndjson.gz" if packed else "calls.ndjson"
    said: list[str] = []
    for lo, hi in pairwise(cuts):
        with (folder / name).open("ab") as file:
            file.write(gzip.compress(whole[lo:hi]) if packed else whole[lo:hi])
        said.append(run(folder, "grown", source=name).output)
    assert "restored" not in said[0]
    (folder / "calls.ndjson").write_bytes(whole)
    reference = run(folder, "whole")
    assert totals(said[-1], "in all") == totals(reference.output)
    assert totals(said[-1])[0] < len(history()) / 2
    assert used(folder, "grown") == used(folder, "whole")
    assert spent(used(folder, "grown")) == totals(reference.output)[:2]
    assert (folder / "grown.quarantine.jsonl").read_bytes() == (folder / "whole.quarantine.jsonl").read_bytes()


def test_a_history_is_not_read_again_and_not_counted(folder: Path) -> None:
    write(folder / "past.ndjson", with_refused(history()[:2000]))
    write(folder / "calls.ndjson", with_refused(history()[2000:3000]))
    first = run(folder, "l", "--history", folder / "past.ndjson")
    assert totals(first.output)[0] == 1000
    write(folder / "calls.ndjson", with_refused(history()[3000:]), "a")
    second = run(folder, "l", "--history", folder / "past.ndjson")
    assert f"history    {folder / 'past.ndjson'} is not read: its baselines are in the checkpoint" in second.output
    assert totals(second.output, "in all")[0] == len(history()) - 2000
    assert spent(used(folder, "l")) == totals(second.output, "in all")[:2]
    assert (folder / "l.quarantine.jsonl").read_bytes().count(b"\n") == totals(second.output, "in all")[2] == 5 + 3 + 3


def test_another_file_under_the_same_name_is_read_from_its_beginning_and_said(folder: Path) -> None:
    lines = with_refused(history())
    write(folder / "calls.ndjson", lines[:3000])
    run(folder, "l")
    for other, how in ((lines[1000:], "whose first 4096 bytes differ"), (lines[1000:2000], "which is shorter than")):
        write(folder / "calls.ndjson", other)
        said = run(folder, "l")
        assert re.search(rf"afresh .*l.checkpoint is of another file, {how}", said.output)
        assert "restored" not in said.output
        assert totals(said.output)[0] == len(other)
    assert spent(used(folder, "l"))[0] == 3000 + 1000, "the last two begin with the same line: one file, read anew"


def test_standard_input_drops_the_checkpoint_of_a_file_and_says_so(folder: Path) -> None:
    write(folder / "calls.ndjson", with_refused(history()[:100]))
    run(folder, "l")
    command = [*COMMAND, "-", "--ledger", str(folder / "l.sqlite")]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert "afresh     - is no file" in said.stdout
    assert not (folder / "l.checkpoint").exists()


def test_two_streams_into_one_ledger_add_up_and_their_last_minute_is_in_it(folder: Path) -> None:
    command = [*COMMAND, "-", *arguments(folder, "l")[1:]]
    for n in range(2):
        calls = "".join(json.dumps(event(n, time.time(), "key-1")) + "\n" for n in range(n, n + 3))
        subprocess.run(command, input=calls, text=True, capture_output=True, check=True)
    assert spent(used(folder, "l"))[0] == 6


def test_a_damaged_checkpoint_stops_the_run_with_what_to_do(folder: Path) -> None:
    write(folder / "calls.ndjson", with_refused(history()[:500]))
    run(folder, "l")
    path = folder / "l.checkpoint"
    good = path.read_bytes()
    bent = bytearray(good)
    bent[-100] ^= 1
    for damaged, why in (
        (bytes(bent), "XXH64"),
        (good[:-1], "bytes, not"),
        (b"", "first line"),
        (b"\x00" * 5000, "first line"),
        (good.replace(b"burnguard:1", b"burnguard:9", 1), "not a pointer"),
    ):
        path.write_bytes(damaged)
        said = burnguard("run", *arguments(folder, "l"))
        assert said.exit_code == 1
        assert re.search(rf"Error: .*l.checkpoint cannot be used: .*{why}.* Delete it to read .*calls.ndjson", said.output)
        assert path.read_bytes() == damaged
    path.unlink()
    assert totals(run(folder, "l").output)[0] == 500


def test_a_checkpoint_that_was_cut_off_while_it_was_written_is_not_the_checkpoint(folder: Path) -> None:
    write(folder / "calls.ndjson", with_refused(history()[:500]))
    run(folder, "l")
    (folder / "l.checkpoint.new").write_bytes(b"burnguard:1 gen")
    assert "restored" in run(folder, "l").output


def test_other_prices_hold_from_the_restart_on_and_are_said(folder: Path) -> None:
    write(folder / "calls.ndjson", with_refused(history()[:500]))
    run(folder, "l")
    (folder / "prices.json").write_text(json.dumps([{**PRICES[0], "input": 3.0}]))
    assert "prices or thresholds are others from here on" in run(folder, "l").output
