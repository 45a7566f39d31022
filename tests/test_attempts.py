"""Attempts of one request are known as such, by what calls say or by the request's id; none is dropped."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.batch import ABSENT, I64, Batch
from schemas.decode import Decoder, split
from schemas.snapshot import BadCheckpoint
from stream.assembly import Assembly
from stream.attempts import Attempts
from stream.measures import HEALTH
from stream.pipeline import Pipeline
from stream.pricing import PriceBook
from stream.windows import HOUR
from tests.calls import T0
from tests.plain import numbered
from tests.test_checkpoint import through_bytes

USUAL = {"tenant": "t", "key_id": "k", "model": "gpt-5", "input_tokens": 1_000, "output_tokens": 100}


def call(n: int, second: float = 0, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{n}", "ts": T0 / 1000 + second} | USUAL | more


def decoded(decoder: Decoder, events: list[dict[str, Any]]) -> Batch:
    lines = split(b"\n".join(json.dumps(event).encode() for event in events))
    lines.clock[:] = [round(event["ts"] * 1000) for event in events]
    return decoder.decode(lines)[0]


class Untied(Attempts):
    """The null protection, for the test that shows what it protects from."""

    def number(self, batch: Batch, clock: I64, fresh: NDArray[np.bool_]) -> tuple[Batch, int]:
        return batch, 0


def folded(events: list[dict[str, Any]], attempts: Attempts | None = None) -> Pipeline:
    prices, decoder = PriceBook(), Decoder()
    line = Pipeline(prices, decoder, [], seen=Assembly([]).pipeline._seen, attempts=attempts)
    line.feed(decoded(decoder, events))
    return line


def retried(line: Pipeline, key: int = 0) -> tuple[int, float]:
    """Calls of a key that were attempts after a first one, and what they cost as a multiple of one call."""
    sums = dict(zip(HEALTH, line.meters.key_health.window(np.array([key]), HOUR, T0)[0].tolist(), strict=True))
    return sums["retries"], sums["retried_usd"] / (line.counters["usd"] / line.counters["unique"])


def test_the_second_call_of_a_request_is_a_retry_counted_and_paid_and_without_the_window_it_is_not() -> None:
    events = [call(1, request_id="r"), call(2, 3, request_id="r"), call(3, 4, request_id="s"), call(4, 5)]
    line = folded(events)
    assert retried(line) == (1, 1.0)
    assert (line.counters["unique"], line.counters["duplicate"]) == (4, 0)
    assert retried(folded(events, Untied())) == (0, 0.0)


def test_what_calls_say_of_their_attempt_holds_in_any_order_and_once_per_call() -> None:
    told = [call(1, request_id="r", attempt=2), call(2, 1, request_id="r", attempt=1), call(3, 2, request_id="r", attempt=3)]
    assert retried(folded(told)) == (2, 2.0)
    assert retried(folded([call(1, attempt=1), call(2, 1, attempt=2)])) == (1, 1.0)


def test_a_repeat_of_a_call_is_no_attempt() -> None:
    line = folded([call(1, request_id="r"), call(1, 1, request_id="r"), call(2, 2, request_id="r")])
    assert (retried(line), line.counters["duplicate"]) == ((1, 1.0), 1)


def test_the_requests_of_two_keys_have_nothing_to_do_with_each_other() -> None:
    ids = [{"key_id": "k"}, {"key_id": "other"}, {"tenant": "u"}, {"tenant": "k", "key_id": "t"}]
    line = folded([call(n, n, request_id="r", **whose) for n, whose in enumerate(ids)])
    assert [retried(line, key)[0] for key in range(len(ids))] == [0] * len(ids)


def test_attempts_follow_the_first_within_ten_minutes() -> None:
    assert retried(folded([call(n, second, request_id="r") for n, second in enumerate((0, 600, 601, 700))])) == (2, 2.0)


def test_the_id_of_a_trace_is_no_storm_and_can_be_seen() -> None:
    """A gateway that gives every call of a key one id: of 100 calls 9 look like retries, the rest are counted."""
    line = folded([call(n, n, request_id="trace") for n in range(100)])
    assert (retried(line)[0], line.counters["shared_request"]) == (9, 90)


sequences = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.4, 1.0, 30.0, 599.0]),
        st.integers(0, 11),
        st.sampled_from([None, None, None, 1, 2]),
        st.booleans(),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(sequences, st.data())
def test_the_window_numbers_calls_as_a_twin_does_however_it_is_cut_and_restarted(sequence: Any, data: st.DataObject) -> None:
    events, at = [], 0.0
    for n, (later, request, attempt, _) in enumerate(sequence):
        at += later
        told = {"attempt": attempt} if attempt else {}
        events.append(call(n, at, **({"request_id": f"r{request}"} if request else {}), **told))
    fresh = np.array([is_fresh for *_, is_fresh in sequence], bool)
    batch, window, found = decoded(Decoder(), events), Attempts(4), []
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=3))
    for lo, hi in pairwise([0, *sorted(cuts), len(events)]):
        part = batch.rows(lo, hi)
        found += window.number(part, part.clock, fresh[lo:hi])[0].attempt.tolist()
        state, window = through_bytes(window.snapshot()), Attempts(4)
        window.restore(state)
    assert found == twin(events, fresh.tolist(), 4)


def twin(events: list[dict[str, Any]], fresh: list[bool], size: int) -> list[int]:
    """By a list of the newest requests, oldest first."""
    newest: list[list[Any]] = []
    out = []
    for event, is_fresh in zip(events, fresh, strict=True):
        attempt, now = event.get("attempt", ABSENT), int(event["ts"])
        if is_fresh and "request_id" in event:
            one = next((r for r in newest if r[0] == event["request_id"] and now - r[1] <= 600), None)
            if one is None:
                one = [event["request_id"], now, 0]
                newest = [*newest, one][-size:]
            one[2] += 1
            if attempt == ABSENT and one[2] <= 10:
                attempt = one[2]
        out.append(attempt)
    return out


def test_a_window_that_is_large_enough_is_no_window() -> None:
    events = [call(n, n % 97, request_id=f"r{n * n % 41}") for n in range(500)]
    events.sort(key=lambda event: event["ts"])
    batch = decoded(Decoder(), events)
    found = Attempts(64).number(batch, batch.clock, np.ones(len(batch), bool))[0].attempt.tolist()
    told = numbered([(round(event["ts"] * 1000), event) for event in events])
    assert found == [event.get("attempt", ABSENT) for event in told]


def test_a_checkpoint_of_before_begins_without_requests_and_a_broken_one_is_refused() -> None:
    before = Assembly([])
    before.pipeline.feed(decoded(before.decoder, [call(1, request_id="r")]))
    state = before.snapshot()
    older, same = Assembly([]), Assembly([])
    older.restore({name: column for name, column in state.items() if ".attempts." not in name})
    same.restore(state)
    for assembly, retries in ((older, 0), (same, 1)):
        assembly.pipeline.feed(decoded(assembly.decoder, [call(2, 1, request_id="r")]))
        assert retried(assembly.pipeline)[0] == retries
    state["pipeline.attempts.turns"] = np.array([9])
    with pytest.raises(BadCheckpoint, match="holds 1 of 9"):
        Assembly([]).restore(state)
