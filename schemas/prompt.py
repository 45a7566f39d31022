"""What may be known of a prompt without the prompt: a fingerprint, a simhash, and about how many tokens it is.

All three are made where the prompt is, and are the same on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schemas.batch import I64, U8

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a chat: `role`, `content` and whatever else the provider takes."""

SALT = range(16, 65)
"""How long a salt may be, in bytes."""
GRAM = 8
BLOCK = 1 << 16
"""Bytes that are hashed at a time: what that takes stays in a core's cache, whatever the prompt's size."""
BITS: I64 = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)

TOKENS = np.zeros(256)
"""What a byte adds to the tokens of a text: letters, digits, line breaks, signs, and the first bytes of other characters."""
for _bytes, _tokens in (
    (string.ascii_lowercase.encode(), 0.24),
    (string.ascii_uppercase.encode(), 0.3),
    (string.digits.encode(), 0.75),
    (b"\n\r\t", 1.5),
    (string.punctuation.encode(), 0.5),
    (range(0xC0, 0xE0), 0.8),
    (range(0xE0, 0xF0), 1.5),
    (range(0xF0, 0x100), 3.0),
):
    TOKENS[[*_bytes]] = _tokens
PER_MESSAGE = 4
"""Tokens around a message's text, as OpenAI counts them."""
NO_TEXT = frozenset({"type", "id", "tool_call_id", "data", "url", "image_url", "file_data"})
"""Fields of a message that are no text for the model: names of things, and images, sound and files."""


def fingerprint(prompt: Prompt, salt: str = "") -> str:
    """The same for the same prompt, to the byte: BLAKE2b-64 (RFC 7693) in hex, of a text or of all messages.

    Who has no `salt` cannot test guesses against it; all who are to be compared need the same one. Raises ValueError for a
    salt that is not 16 to 64 bytes long, TypeError where a message holds what is no JSON (pydantic models are).
    """
    whole = prompt if isinstance(prompt, str) else _json(prompt)
    return hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=8, key=_key(salt)).hexdigest()


def simhash(prompt: Prompt, salt: str = "") -> str:
    """Of nearly the same prompts nearly the same 64 bits (Charikar 2002; Manku et al. 2007), in hex. Of messages, the newest
    that a user or a tool wrote: a shared system prompt and the past of a chat would make all prompts of a program alike.

    Bit b is whether most 8-byte stretches of the text have it in their hash. The `salt` is that of `fingerprint`; it keeps
    guesses of a text out less surely than there, as a simhash tells by its nature how alike two texts are.
    """
    seed = int.from_bytes(hashlib.blake2b(digest_size=8, key=_key(salt)).digest(), "little")
    whole = np.frombuffer(bytes(GRAM - 1) + _newest(prompt).encode(errors="surrogatepass"), np.uint8)
    grams = len(whole) - GRAM + 1
    ones = np.zeros(64, np.int64)
    for first in range(0, grams, BLOCK):
        hashes = _mixed(_grams(whole[first : first + BLOCK + GRAM - 1]) ^ np.uint64(seed))
        lanes = hashes.astype("<u8").view(np.uint8).reshape(-1, 8)
        ones += np.concatenate([np.bincount(lanes[:, lane], minlength=256) @ BITS for lane in range(8)])
    return f"{int.from_bytes(np.packbits(2 * ones > grams, bitorder='little').tobytes(), 'little'):016x}"


def expected_tokens(text: str) -> int:
    """About how many tokens a text is, told by its bytes alone. docs/producers.md says how far off that is."""
    counts = np.bincount(np.frombuffer(text.encode(errors="surrogatepass"), np.uint8), minlength=256)
    return round(float(counts @ TOKENS))


def prompt_tokens(prompt: Prompt, count: Callable[[str], int] = expected_tokens) -> int:
    """The tokens of a text, or of all messages with what is around each; images, sound and files count nothing."""
    if isinstance(prompt, str):
        return count(prompt)
    return sum(PER_MESSAGE + sum(map(count, _texts(message))) for message in prompt)


def _texts(found: object) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, Mapping):
        for name, value in found.items():
            if name not in NO_TEXT:
                yield from _texts(value)
    elif isinstance(found, Sequence):
        for value in found:
            yield from _texts(value)
    elif hasattr(found, "model_dump"):
        yield from _texts(_model(found))


def _key(salt: str) -> bytes:
    key = salt.encode()
    if key and len(key) not in SALT:
        raise ValueError(f"a salt has {SALT.start} to {SALT.stop - 1} bytes, not {len(key)}")
    return key


def _newest(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    asked = [message for message in prompt if message.get("role") in ("user", "tool")] or [*prompt]
    content = asked[-1].get("content") if asked else ""
    return content if isinstance(content, str) else _json(content)


def _json(found: object) -> str:
    return json.dumps(found, sort_keys=True, separators=(",", ":"), default=_model)


def _model(found: Any) -> Any:
    """The answers of SDKs are pydantic models; programs put them back into the messages as they are."""
    if not hasattr(found, "model_dump"):
        raise TypeError(f"a message holds a {type(found).__name__}, which is no JSON")
    return found.model_dump(mode="json")


def _grams(text: U8) -> NDArray[np.uint64]:
    """Every stretch of 8 bytes as a number."""
    found = text.astype(np.uint64)
    for width in (1, 2, 4):
        found = found[:-width] | found[width:] << np.uint64(8 * width)
    return found


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's last steps (Steele et al. 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
