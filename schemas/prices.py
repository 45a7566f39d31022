"""Price overrides: what an operator's prices.json says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

Rate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""USD; the cap keeps a call's exact cost within int64 pico-dollars."""


class PriceEntry(BaseModel):
    """The prices of one model from `effective_from` (epoch seconds) on, in USD per 1M tokens; `web_search` per 1,000.

    An absent `cache_read` or `cache_write` costs what input costs; `service_tiers` are factors on all token prices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = Field(max_length=256)
    model: str = Field(min_length=1, max_length=256)
    effective_from: float = Field(ge=0, le=4_102_444_800)
    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    audio_input: Rate | None = None
    audio_output: Rate | None = None
    web_search: Rate | None = None
    service_tiers: dict[Literal["standard", "batch", "flex", "priority"], Annotated[float, Field(ge=0, le=10)]] = {}
    unit: Literal["USD per 1M tokens"]


class PriceList(RootModel[tuple[PriceEntry, ...]]):
    """The file: a list of entries."""
