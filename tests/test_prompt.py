"""What is known of a prompt without it: a fingerprint that is exact, a simhash that is not, and about its tokens."""

from __future__ import annotations

import random
import re
import statistics
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas.prompt import GRAM, Prompt, expected_tokens, fingerprint, prompt_tokens, simhash

SALT = "a salt of the organisation"
WORDS = re.findall(r"\S+", "".join(Path(f"docs/{name}.md").read_text() for name in ("adapters", "architecture", "metrics")))
SAMPLES = {
    "licence": (Path("LICENSE").read_text()[:4000], 807),
    "German": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
        29,
    ),
    "Chinese": ("人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。", 52),
    "numbers": (", ".join(str(i * 7919) for i in range(300)), 1370),
}
"""Texts, and how many tokens of cl100k_base they are."""


def apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def excerpt(chance: random.Random, words: int, of: list[str] = WORDS) -> list[str]:
    first = chance.randrange(len(of) - words)
    return of[first : first + words]


def test_the_values_are_the_same_on_every_machine_and_for_ever() -> None:
    chat: Prompt = [{"role": "user", "content": "Was kostet das? €5 \ud800"}]
    assert fingerprint("hello") == "a7b6eda801e5347d"
    assert (fingerprint(chat), simhash(chat)) == ("dcabf1795ca165f6", "48c6733090a00ea1")
    assert (fingerprint("hello", SALT), simhash("hello world", SALT)) == ("0eb6ff46e0c7c5a0", "f3cffaa206d23a04")
    other = "from schemas.prompt import *; print(fingerprint('hello'), simhash('hello world'))"
    said = subprocess.run([sys.executable, "-c", other], capture_output=True, env={"PYTHONHASHSEED": "7"}, check=True).stdout
    assert said.decode().split() == [fingerprint("hello"), simhash("hello world")]


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_fingerprint_is_that_of_the_very_prompt(one: str, other: str) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    chat = [{"role": "user", "content": one}]
    assert fingerprint(chat) == fingerprint([{"content": one, "role": "user"}]) != fingerprint(one)
    assert fingerprint(one, SALT) != fingerprint(one)
    assert all(re.fullmatch("[0-9a-f]{16}", made(one, SALT)) for made in (fingerprint, simhash))


@pytest.mark.parametrize("salt", ["short", "x" * 65])
def test_a_salt_that_guards_nothing_is_refused(salt: str) -> None:
    for made in (fingerprint, simhash):
        with pytest.raises(ValueError, match="16 to 64 bytes"):
            made("prompt", salt)


@given(st.text(min_size=0, max_size=300), st.sampled_from(["", SALT]))
def test_a_simhash_is_the_majority_of_each_bit_over_all_stretches(text: str, salt: str) -> None:
    """A naive twin, one stretch and one bit at a time."""
    whole = bytes(GRAM - 1) + text.encode()
    seed = int.from_bytes(blake2b(digest_size=8, key=salt.encode()).digest(), "little")
    votes = [0] * 64
    for first in range(len(whole) - GRAM + 1):
        x = int.from_bytes(whole[first : first + GRAM], "little") ^ seed
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        for bit in range(64):
            votes[bit] += 1 if x >> bit & 1 else -1
    assert int(simhash(text, salt), 16) == sum((votes[bit] > 0) << bit for bit in range(64))


def test_a_simhash_does_not_depend_on_how_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(WORDS[:3000])
    whole = simhash(text)
    monkeypatch.setattr("schemas.prompt.BLOCK", 100)
    assert simhash(text) == whole


def test_one_number_or_timestamp_more_or_less_moves_few_bits_of_a_thousand_words() -> None:
    chance, moved = random.Random(1), []
    for _ in range(300):
        words = excerpt(chance, 1000)
        changed = list(words)
        changed[chance.randrange(1000)] = chance.choice([str(chance.randrange(10**9)), "2026-11-24T17:48:00.123Z"])
        moved.append(apart(simhash(" ".join(words)), simhash(" ".join(changed))))
    assert max(moved) <= 8
    assert sorted(moved)[-15] <= 6
    assert statistics.median(moved) <= 2


def test_prompts_that_have_nothing_to_do_with_each_other_differ_in_about_half_the_bits() -> None:
    chance, moved, half = random.Random(2), [], len(WORDS) // 2
    for _ in range(300):
        one, other = (" ".join(excerpt(chance, 300, of)) for of in (WORDS[:half], WORDS[half:]))
        moved.append(apart(simhash(one), simhash(other)))
    assert min(moved) > 12
    assert 28 <= statistics.median(moved) <= 34


def test_of_messages_the_newest_that_was_asked_counts_and_not_what_all_chats_share() -> None:
    system = {"role": "system", "content": " ".join(WORDS[:2000])}
    asked = [{"role": "user", "content": text} for text in ("How do I bake bread?", "Write a sonnet on rain, with rhymes.")]
    assert apart(simhash([system, asked[0]]), simhash([system, asked[1]])) > 16
    answered = [system, asked[0], {"role": "assistant", "content": "With flour."}]
    assert simhash(answered) == simhash(str(asked[0]["content"]))
    assert simhash([]) == simhash("") == "0" * 16


class Block(BaseModel):
    type: str
    text: str


def test_the_models_of_sdks_may_stand_in_messages_and_nothing_else_that_is_no_json() -> None:
    block = Block(type="text", text="With flour.")
    as_model = [{"role": "user", "content": [block]}]
    as_json = [{"role": "user", "content": [block.model_dump()]}]
    for made in (fingerprint, simhash, prompt_tokens):
        assert made(as_model) == made(as_json)
    with pytest.raises(TypeError, match="holds a object, which is no JSON"):
        fingerprint([{"role": "user", "content": object()}])


@pytest.mark.parametrize("name", SAMPLES)
def test_tokens_told_by_bytes_are_about_those_of_a_real_tokenizer(name: str) -> None:
    text, tokens = SAMPLES[name]
    assert 0.7 < expected_tokens(text) / tokens < 1.35


def test_messages_are_counted_with_what_is_around_them_and_without_pictures() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    chat = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    assert prompt_tokens(chat) < 15
    assert prompt_tokens(chat, count=lambda text: len(text.split())) == 4 + len(["user"]) + len(["What", "is", "this?"])
