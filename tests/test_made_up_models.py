"""Names of models that somebody makes up: they cost neither memory nor time without end, and are priced as a guess."""

from __future__ import annotations

import tracemalloc

import pytest

from schemas.batch import Batch
from schemas.decode import MOST_MODELS, Decoder, split
from schemas.vocabulary import FirstModels, Vocabulary
from stream.assembly import Assembly
from stream.pricing import PriceBook

KNOWN = b"gpt-4o"


def call(n: int, model: bytes) -> bytes:
    return (
        b'{"event_id":"e%d","ts":1000.0,"tenant":"t","key_id":"k","provider":"openai","model":"%s","input_tokens":1000000,'
        b'"output_tokens":0}' % (n, model)
    )


def read(decoder: Decoder, first: int, models: list[bytes]) -> Batch:
    lines = split(b"\n".join(call(first + n, model) for n, model in enumerate(models)))
    lines.clock[:] = 1_000_000
    return decoder.decode(lines)[0]


def made_up(count: int) -> list[bytes]:
    return [b"made-up-%d" % n for n in range(count)]


def test_beyond_the_first_models_all_are_other_and_those_that_are_known_stay_what_they_are() -> None:
    decoder, book = Decoder(), PriceBook()
    batch = read(decoder, 0, [KNOWN, *made_up(2 * MOST_MODELS), KNOWN, b"gpt-4o-mini"])
    assert len(decoder.models) == MOST_MODELS
    cost, guessed = book.cost(batch, decoder.models.names)
    assert (cost[0], guessed[0]) == (cost[-2], guessed[-2]) == (2_500_000_000, False)
    assert (cost > 0).all() and guessed[1:-2].all()
    assert guessed[-1] and cost[-1] > 150_000_000, "known, but too late: dear, a guess, and counted"


def test_calls_of_models_beyond_the_first_are_counted() -> None:
    assembly = Assembly([])
    assembly.pipeline.feed(read(assembly.decoder, 0, made_up(MOST_MODELS + 10)))
    assert assembly.pipeline.counters["other_model"] == 11, "the last of the 5,000 is other itself"


def test_a_restored_vocabulary_is_as_full_as_it_was_and_older_checkpoints_keep_what_they_have() -> None:
    for before in (FirstModels(10), Vocabulary(parts=2)):
        for n in range(20):
            before.row("p", f"m{n}")
        after = FirstModels(10)
        after.restore(before.snapshot())
        assert after.names[: len(before)] == before.names
        assert after.row("p", "m3") == before.row("p", "m3")
        rows = len(after)
        assert after.names[after.row("p", "new")] == ("", "other")
        assert len(after) == rows


def test_whoever_is_called_other_does_not_keep_the_others_out() -> None:
    models = FirstModels(4)
    rows = [models.row(*name) for name in (("", "other"), ("p", "a"), ("p", "b"), ("p", "c"), ("p", "d"))]
    assert rows == [0, 1, 2, 0, 0]
    assert models.other == 0


@pytest.mark.parametrize(("most", "least", "grown"), [(1_000, 0, 200_000), (10**6, 700_000, 10**9)])
def test_made_up_names_take_no_memory_and_would_without_a_limit(most: int, least: int, grown: int) -> None:
    decoder, book = Decoder(), PriceBook()
    decoder.models = FirstModels(most)

    def feed(first: int) -> None:
        batch = read(decoder, first, [b"made-up-%d" % n for n in range(first, first + 1_000)])
        book.cost(batch, decoder.models.names)

    feed(0)
    tracemalloc.start()
    for first in range(1_000, 5_000, 1_000):
        feed(first)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert least <= taken <= grown
