"""What an operator's prices.json says: prices of models, discounts of tenants, what own hardware costs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from schemas.usage import Name

Rate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
"""USD; the cap keeps a call's exact cost within int64 pico-dollars."""
Since = Annotated[float, Field(ge=0, le=4_102_444_800)]
"""Epoch seconds."""
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class PriceEntry(BaseModel):
    """The prices of one model from `effective_from` (epoch seconds) on, in USD per 1M tokens; `web_search` per 1,000.

    An absent `cache_read` or `cache_write` costs what input costs; `service_tiers` are factors on all token prices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = Field(max_length=256)
    model: str = Field(min_length=1, max_length=256)
    effective_from: Since
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


class Discount(BaseModel):
    """A tenant pays `discount` (0.15: 15 %) less than the price from `effective_from` on, for everything or only for a
    provider or a model.

    One holds at a time: a model's before a provider's before one for everything, and among those the newest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re")

    tenant: Name
    discount: float = Field(ge=0, le=1)
    effective_from: Since
    provider: Name | None = None
    model: Name | None = None


class Hardware(BaseModel):
    """`gpus` GPUs at `gpu_usd_per_hour` each, which together read or write so many tokens a second under the usual load."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu_usd_per_hour: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    gpus: Positive = 1
    input_tokens_per_second: Positive
    output_tokens_per_second: Positive


class SelfHosted(BaseModel):
    """A model on hardware of one's own, from `effective_from` on; null costs nothing, and that is said at start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = Field(max_length=256)
    model: str = Field(min_length=1, max_length=256)
    effective_from: Since
    self_hosted: Hardware | None

    @model_validator(mode="after")
    def _no_absurd_price(self) -> SelfHosted:
        if max(self._per_million()) > 1000:
            raise ValueError("more than 1,000 USD per 1M tokens")
        return self

    def price(self) -> PriceEntry:
        """The same as prices per token, to the pico-dollar."""
        read, written = self._per_million()
        return PriceEntry(
            provider=self.provider,
            model=self.model,
            effective_from=self.effective_from,
            input=round(read, 6),
            output=round(written, 6),
            unit="USD per 1M tokens",
        )

    def _per_million(self) -> tuple[float, float]:
        if self.self_hosted is None:
            return 0.0, 0.0
        dollars = self.self_hosted.gpu_usd_per_hour * self.self_hosted.gpus / 3600 * 1e6
        return dollars / self.self_hosted.input_tokens_per_second, dollars / self.self_hosted.output_tokens_per_second


Entry: TypeAlias = PriceEntry | Discount | SelfHosted


def _kind(entry: Any) -> str:
    """Which of them an entry is: the tag that pydantic puts into a mistake's path, with the name of the model."""
    if isinstance(entry, Entry):
        return f"<{type(entry).__name__}>"
    given = entry if isinstance(entry, dict) else {}
    return "<Discount>" if "discount" in given else "<SelfHosted>" if "self_hosted" in given else "<PriceEntry>"


Tagged: TypeAlias = (
    Annotated[PriceEntry, Tag("<PriceEntry>")]
    | Annotated[Discount, Tag("<Discount>")]
    | Annotated[SelfHosted, Tag("<SelfHosted>")]
)


class PriceList(RootModel[tuple[Annotated[Tagged, Discriminator(_kind)], ...]]):
    """The file: a list of entries."""
