"""What a call will cost, before it is made: by the price book and the decoder of the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from schemas.batch import Nano
from schemas.decode import Decoder, split
from schemas.prices import Entry
from schemas.prompt import Prompt, expected_tokens, prompt_tokens
from stream.pricing import PriceBook


@dataclass(frozen=True, slots=True)
class Estimate:
    """A call with `input_tokens`: what it costs if nothing is answered, and if the answer is as long as it may be.

    `guessed` says that the price is not known (see `PriceBook`).
    """

    input_tokens: int
    input: Nano
    most: Nano
    guessed: bool

    @property
    def input_usd(self) -> float:
        return self.input / 1e9

    @property
    def most_usd(self) -> float:
        return self.most / 1e9


class Estimator:
    """Estimates, from any thread. `entries` are those of prices.json; `count` is your model's tokenizer, where you have it.

    Making one takes seconds where its kernels are not compiled yet; make it once, before the first request.
    """

    def __init__(self, entries: Sequence[Entry] = (), count: Callable[[str], int] = expected_tokens) -> None:
        self._book = PriceBook(entries)
        self._count = count
        self._decoder = Decoder()
        self._lock = threading.Lock()
        self.estimate("gpt-4o", 0, 0)

    def estimate(
        self,
        model: str,
        prompt: Prompt | int,
        max_output_tokens: int,
        *,
        provider: str | None = None,
        tenant: str | None = None,
        service_tier: str | None = None,
        at: float | None = None,
    ) -> Estimate:
        """Of a text, of messages, or of as many input tokens; `tenant` is for its discounts, `at` (epoch s) is now.

        Nothing is taken to come from a cache. Raises ValueError for what is no call, such as a negative count.
        """
        tokens = prompt if isinstance(prompt, int) else prompt_tokens(prompt, self._count)
        told = {"provider": provider, "service_tier": service_tier, "ts": time.time() if at is None else at}
        call = {"event_id": "-", "tenant": tenant or "-", "key_id": "-", "model": model, "input_tokens": tokens, **told}
        lines = b"\n".join(msgspec.json.encode(call | {"output_tokens": output}) for output in (0, max_output_tokens))
        with self._lock:
            batch, refused = self._decoder.decode(split(lines))
            if refused:
                raise ValueError(f"{refused[0].field}: {refused[0].reason}")
            tenants = self._decoder.tenants.names if tenant else ()
            cost, guessed = self._book.cost(batch, self._decoder.models.names, tenants)
        return Estimate(tokens, int(cost[0]), int(cost[1]), bool(guessed.any()))
