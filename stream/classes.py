"""A call's tokens by class: every token in one, the one that it is priced as."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, inline="always")
def known(count):  # type: ignore[no-untyped-def]  # numba infers the types
    """An absent count adds nothing of its own: its tokens are those of the total."""
    return np.int64(count) if count > 0 else np.int64(0)


@njit(cache=True, inline="always")
def classes(i, inputs, outputs, searches):  # type: ignore[no-untyped-def]
    """The counts of call i in the order of rates' columns.

    Audio that was cached or written to the cache counts as that; of the output, audio goes before reasoning.
    """
    input_all, cached_all, write_all, hour_all = inputs
    output_all, reasoning_all, audio_in_all, audio_out_all = outputs
    cached = known(cached_all[i])
    hour = known(hour_all[i])
    write = max(known(write_all[i]), hour)
    fresh = known(input_all[i] - cached - write)
    audio_in = min(known(audio_in_all[i]), fresh)
    audio_out = known(audio_out_all[i])
    said = known(output_all[i] - audio_out)
    reasoning = min(known(reasoning_all[i]), said)
    searched = known(searches[i])
    return fresh - audio_in, cached, write - hour, hour, said - reasoning, reasoning, audio_in, audio_out, searched
