"""Whatever the bytes: no exception, no invalid call, every loss counted with a reason, time and memory in proportion."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stream.intake import Source
from tests.hostile import (
    FRAGMENTS,
    INTAKE,
    PROTOBUF,
    RAW,
    WHOLE,
    bend,
    captured,
    decode_holds,
    huge,
    huge_protobuf,
    intake_holds,
    payloads,
    places,
)

MANY, MOST_US_PER_BYTE, MOST_BYTES_PER_BYTE = 30_000, 5, 60


def turns(payload: Any) -> Iterator[bytes]:
    """A third of the fragments in each place, and some beside what stands there; neighbours have other ones."""
    for n, path in enumerate(places(payload)):
        yield from (bend(payload, path, fragment) for fragment in FRAGMENTS[n % 3 :: 3])
        yield from (bend(payload, path, fragment, beside=True) for fragment in FRAGMENTS[n % 17 :: 17])


@pytest.mark.parametrize("source", INTAKE)
def test_bytes_that_are_no_payload_yield_no_call(source: Source) -> None:
    for raw in RAW:
        assert intake_holds(source, raw).events == []


@pytest.mark.parametrize("name", payloads())
def test_any_value_in_any_place_of_a_payload_is_a_call_or_is_counted(name: str) -> None:
    source, payload = payloads()[name]
    for raw in turns(payload):
        reading = intake_holds(source, raw)
        assert reading.events or reading.refused or reading.passed, raw


def test_any_value_in_any_field_of_a_line_is_judged_alike_by_all_readers() -> None:
    for raw in turns(WHOLE):
        decode_holds(raw)


def test_odd_protobuf_is_a_call_or_is_counted() -> None:
    for raw in PROTOBUF:
        reading = intake_holds("otlp", raw)
        assert reading.events or reading.refused or reading.passed, raw


@pytest.mark.parametrize("source", INTAKE)
def test_what_real_software_sent_holds_cut_anywhere(source: Source) -> None:
    for raw in captured(source):
        for cut in range(0, len(raw), 61):
            intake_holds(source, raw[:cut])
            intake_holds(source, raw[cut:])


@pytest.mark.parametrize("source", INTAKE)
def test_what_is_made_to_cost_much_costs_little_a_byte(source: Source) -> None:
    """Of CPU and of memory; where something took the square of the bytes, it would be thousands of times as much."""
    payload = next(payload for found, payload in payloads().values() if found == source)
    last = places(payload)[-1]
    for what, fragment in huge(MANY).items():
        cheap(what, source, fragment)
        cheap(what, source, bend(payload, last, fragment))


def test_protobuf_that_is_made_to_cost_much_costs_little_a_byte() -> None:
    for what, raw in huge_protobuf(MANY).items():
        cheap(what, "otlp", raw)


def cheap(what: str, source: Source, raw: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    reading = intake_holds(source, raw)
    spent = time.process_time() - began
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spent < 0.5 + MOST_US_PER_BYTE * len(raw) / 1e6, what
    assert most < (1 << 20) + MOST_BYTES_PER_BYTE * len(raw), what
    assert reading.events or reading.refused or reading.passed, what


@pytest.mark.skipif(find_spec("atheris") is None, reason="there is no Atheris for this machine")
def test_the_fuzzer_finds_nothing_in_a_few_hundred_turns(tmp_path: Path) -> None:
    """Every target, with inputs of its own making; hours of it are `python -m tests.fuzz TARGET`."""
    finds = tmp_path / "finds"
    finds.mkdir()
    command = [sys.executable, "-m", "tests.fuzz", "all", "--runs", "250", "--finds", str(finds)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert (ran.returncode, list(finds.iterdir())) == (0, []), ran.stderr[-4_000:]
