"""The calls that the benchmarks read: 21 fields, some 560 bytes of JSON, the same for every rival."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

STEP = 10_000
LINE = (
    b'{"event_id":"01890a5d-ac96-774b-bcce-%012x","ts":%.6f,"tenant":"tenant-%d","key_id":"key-%d","provider":"openai",'
    b'"model":"%s","requested_model":"gpt-4o","operation":"chat","input_tokens":%d,"cached_input_tokens":%d,'
    b'"output_tokens":%d,"service_tier":"standard","status":200,"latency_ms":812.5,"session_id":"session-%d",'
    b'"user_id":"%032x","client_ip":"203.0.113.7","country":"DE",'
    b'"user_agent":"OpenAI/Python 2.3.0 (Linux x86_64) httpx/0.28.1","feature":"support-chat",'
    b'"prompt_fingerprint":"%016x"}'
)
MODELS = (b"gpt-4o", b"gpt-4o-mini", b"o3")


def calls(count: int, keys: int, ts: Callable[[int], float]) -> Iterator[list[bytes]]:
    """`count` calls spread evenly over `keys` keys, in lists of STEP; the call number n happened at ts(n)."""
    rng = np.random.default_rng(1)
    for at in range(0, count, STEP):
        size = min(STEP, count - at)
        key, tokens = rng.integers(0, keys, size).tolist(), rng.integers(10, 4000, (size, 3)).tolist()
        yield [
            LINE
            % (
                n,
                ts(n),
                k // 50,
                k,
                MODELS[n % 3],
                i + c,
                c,
                o,
                n % 5000,
                n % 30_000,
                n * 2654435761 % 2**64,
            )
            for n, k, (i, o, c) in zip(range(at, at + size), key, tokens, strict=True)
        ]


class Plain(msgspec.Struct):
    """A call as a rival would declare it: types and nothing else. Our own `Call` also checks the contract, at 4 us a call."""

    event_id: str
    ts: float
    tenant: str
    key_id: str
    provider: str
    model: str
    requested_model: str
    operation: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    service_tier: str
    status: int
    latency_ms: float
    session_id: str
    user_id: str
    client_ip: str
    country: str
    user_agent: str
    feature: str
    prompt_fingerprint: str
