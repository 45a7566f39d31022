"""Tokens to nano-dollars: price overrides over genai-prices, compiled once per model to one flat table."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, TypeAlias

import genai_prices
import numpy as np
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, StartDateConstraint, TimeOfDateConstraint
from numba import njit
from numpy.typing import ArrayLike, NDArray

from detectors.base import Names
from schemas.batch import I32, I64, RESPONSE_CACHE, SERVICE_TIERS, Batch, Ms
from schemas.prices import Discount, Entry, PriceEntry, SelfHosted
from stream.classes import classes
from stream.columns import enlarged
from stream.families import family_maximum
from stream.rates import REQUEST, RateRow, Steps, discounted, of_entry, of_price, prices_of, told_by_tokens

CONTEXTS = {"standard": None, "batch": {"processing": "batch"}}
"""What the library calls a service tier; the others by their own name under `service_tier`."""
DAY: Ms = 86_400_000
TIERS = len(SERVICE_TIERS)
NONE = -1
Contract: TypeAlias = tuple[Discount, ...]
"""A tenant's discounts."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model of the library; `native` where its own provider is asked, as only then its service tiers count."""

    model: ModelInfo
    owner: str
    native: bool
    guessed: bool


class Flat:
    """An array that grows at its end; what is behind `used` means nothing."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.used = len(array)

    def extend(self, values: ArrayLike) -> None:
        new = np.asarray(values, self.array.dtype)
        if self.used + len(new) > len(self.array):
            self.array = enlarged(self.array, max(self.used + len(new), 2 * len(self.array)), 0)
        self.array[self.used : self.used + len(new)] = new
        self.used += len(new)

    def last(self) -> int:
        return int(self.array[self.used - 1])


class Table:
    """All sheets, flat. A sheet is one model's prices: dates x times of day x service tiers, then steps by context length.

    Sheet s has `dates[first_date[s] : first_date[s + 1]]` (Ms, the first one 0) and `times`, alike (Ms of the UTC day).
    Its cells begin at `first_cell[s]`; cell c has the steps `first_step[c] : first_step[c + 1]` of `lengths` and `rates`.
    """

    def __init__(self) -> None:
        self.dates, self.times, self.lengths = (Flat(np.empty(0, np.int64)) for _ in range(3))
        self.first_date, self.first_time, self.first_cell, self.first_step = (Flat(np.zeros(1, np.int64)) for _ in range(4))
        self.guessed = Flat(np.empty(0, np.bool_))
        self.rates = Flat(np.empty((0, REQUEST + 1), np.int64))

    def add(self, dates: list[Ms], times: list[Ms], cells: list[tuple[Steps, bool]]) -> int:
        """The new sheet's number."""
        for begins, found in ((self.first_date, dates), (self.first_time, times), (self.first_cell, cells)):
            begins.extend([begins.last() + len(found)])
        self.first_step.extend(self.first_step.last() + np.cumsum([len(found) for found, _ in cells]))
        steps = [step for found, _ in cells for step in found]
        self.dates.extend(dates)
        self.times.extend(times)
        self.guessed.extend([guessed for _, guessed in cells])
        self.lengths.extend([length for length, _ in steps])
        self.rates.extend([row for _, row in steps])
        return self.first_cell.used - 2

    def places(self) -> tuple[NDArray[Any], ...]:
        """Where in the rates a call's are."""
        begins = self.first_date, self.first_time, self.first_cell, self.first_step
        return tuple(column.array for column in (self.dates, self.times, *begins, self.lengths))


class PriceBook:
    """What calls cost, exactly: int64 pico-dollars a token summed per call, then rounded half-even to nano-dollars.

    An override holds from its `effective_from` on for its provider and model (or, where the call names no provider, for
    its model); else genai-prices decides. `guessed` says that the price is not known: a model that the library knows, but
    not from this provider, costs what its maker takes; an unknown model, or one charged by something else than tokens,
    costs the highest of every rate in its family: the provider's models that share the most leading words of its name
    (`gpt`, `claude-opus`), in the end all of them, and all models' where the provider is unknown. A guess is never 0.
    A tenant's discount is taken off every rate of its calls, but never off a guess.
    """

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._providers = data_snapshot.get_snapshot().providers
        self._overrides: dict[tuple[str, str], list[PriceEntry]] = {}
        prices = [entry.price() if isinstance(entry, SelfHosted) else entry for entry in entries]
        for entry in sorted((e for e in prices if isinstance(e, PriceEntry)), key=lambda e: e.effective_from):
            for provider in {entry.provider, ""}:
                self._overrides.setdefault((provider, entry.model), []).append(entry)
        self._contracts, self._contract_of = _contracts([e for e in entries if isinstance(e, Discount)])
        self._table = Table()
        self._sheets: I64 = np.full((len(self._contracts), 64), NONE, np.int64)
        self._known: dict[tuple[str, str], tuple[Found | None, RateRow | None]] = {}
        self._compiled: dict[tuple[object, ...], int] = {}
        self.version = version_of(entries)

    def cost(self, batch: Batch, models: Names, tenants: Names = ()) -> tuple[I64, NDArray[np.bool_]]:
        """Nano-dollars per call, and whether its price is guessed. `models[row]` is (provider or "", model).

        What a gateway's own cache answered cost nothing, whatever tokens it reports. Without `tenants` nobody has a discount.
        """
        self._grow(len(models))
        contract = self._contract(batch.tenant, tenants)
        table = self._table
        cost, guessed = np.empty(len(batch), np.int64), np.empty(len(batch), np.bool_)
        at = 0
        while True:
            at = _price(
                table.places(),
                (table.rates.array, table.guessed.array, self._sheets),
                (batch.ts, contract, batch.model, batch.tier),
                (batch.input_tokens, batch.cached_input_tokens, batch.cache_write_tokens, batch.cache_write_1h_tokens),
                (batch.output_tokens, batch.reasoning_tokens, batch.audio_input_tokens, batch.audio_output_tokens),
                batch.web_search_requests,
                at,
                cost,
                guessed,
            )
            if at == len(batch):
                break
            provider, model = models[batch.model[at]]
            sheet = self._sheet(provider, model, self._contracts[contract[at]])
            self._sheets[contract[at], batch.model[at]] = sheet
        answered = batch.response_cache == RESPONSE_CACHE.index("hit")
        cost[answered], guessed[answered] = 0, False
        return cost, guessed

    def discount(self, tenant: str, provider: str, model: str, at: Ms) -> float:
        """The share that a tenant pays less for a model at a time."""
        contract = self._contracts[self._contract_of.get(tenant, 0)]
        return _off(self._terms(provider, model, contract), at)

    def _grow(self, models: int) -> None:
        room = self._sheets.shape[1]
        if models > room:
            more = np.full((len(self._contracts), max(models - room, room)), NONE, np.int64)
            self._sheets = np.concatenate([self._sheets, more], axis=1)

    def _contract(self, tenant: I32, tenants: Names) -> I32:
        """The contract of every call; rows of tenants may stand for somebody else than in the last batch."""
        if not self._contract_of or not len(tenants):
            return np.zeros(len(tenant), np.int32)
        rows, places = np.unique(tenant, return_inverse=True)
        return np.array([self._contract_of.get(tenants[row][0], 0) for row in rows.tolist()], np.int32)[places]

    def _sheet(self, provider: str, model: str, contract: Contract) -> int:
        """The sheet of a name under a contract; names that cost the same share one."""
        entries, (found, maximum) = self._overrides.get((provider, model), []), self._look_up(provider, model)
        library = (id(found.model), found.native, found.guessed) if found else maximum
        terms = self._terms(provider, model, contract)
        key = (library, terms, *map(id, entries))
        if key not in self._compiled:
            self._compiled[key] = self._compile(entries, found, maximum, terms)
        return self._compiled[key]

    def _look_up(self, provider: str, model: str) -> tuple[Found | None, RateRow | None]:
        """What the library has of a model, else its family's maximum."""
        if (provider, model) not in self._known:
            found = self._find(provider, model)
            self._known[provider, model] = found, None if found else family_maximum(provider, model)
        return self._known[provider, model]

    def _terms(self, provider: str, model: str, contract: Contract) -> Contract:
        """The discounts of a contract that are about a model."""
        if not contract:
            return contract
        found, _ = self._look_up(provider, model)
        owners = {provider, found.owner if found else "", *(e.provider for e in self._overrides.get((provider, model), ()))}
        return tuple(d for d in contract if d.provider in (None, *owners) and d.model in (None, model))

    def _compile(self, entries: list[PriceEntry], found: Found | None, maximum: RateRow | None, terms: Contract) -> int:
        starts = [round(entry.effective_from * 1000) for entry in entries]
        dates, times = _changes(found.model) if found else (set[Ms](), set[Ms]())
        dates, times = {0, *dates, *starts, *(round(d.effective_from * 1000) for d in terms)}, {0, *times}
        cells: list[tuple[Steps, bool]] = []
        for date in sorted(dates):
            newest, off = bisect_right(starts, date), _off(terms, date)
            for at in sorted(times):
                for tier in SERVICE_TIERS:
                    if newest:
                        cells.append((discounted(of_entry(entries[newest - 1], tier), off), False))
                    elif found:
                        steps = _of_library(found, date // DAY * DAY + at, tier)
                        cells.append((steps if found.guessed else discounted(steps, off), found.guessed))
                    else:
                        assert maximum is not None
                        cells.append(([(-1, maximum)], True))
        return self._table.add(sorted(dates), sorted(times), cells)

    def _find(self, provider: str, model: str) -> Found | None:
        library = data_snapshot.DataSnapshot(self._providers, from_auto_update=False)  # one that is kept keeps every name
        for asked in (provider, "") if provider else ("",):
            try:
                owner, info = library.find_provider_model(model, None, asked or None, None)
            except LookupError:
                continue
            prices, guessed = prices_of(info), asked != provider
            if prices and all(told_by_tokens(p) and (p.input_mtok or not guessed) for p in prices):
                return Found(info, owner.id, any(info is own for own in owner.models), guessed)
        return None


def version_of(entries: Sequence[Entry]) -> str:
    """The name of the price book: the version of genai-prices, and a hash of the entries where there are any."""
    own = hashlib.blake2b("\n".join(entry.model_dump_json() for entry in entries).encode(), digest_size=4).hexdigest()
    return f"{genai_prices.__version__}+{own}" if entries else genai_prices.__version__


def _contracts(discounts: list[Discount]) -> tuple[list[Contract], dict[str, int]]:
    """Every contract, first that of no discount, and the place of every tenant's; tenants with the same terms share one."""
    of: dict[str, Contract] = {}
    for discount in discounts:
        of[discount.tenant] = (*of.get(discount.tenant, ()), discount.model_copy(update={"tenant": ""}))
    contracts = list(dict.fromkeys([(), *of.values()]))
    place = {contract: n for n, contract in enumerate(contracts)}
    return contracts, {tenant: place[contract] for tenant, contract in of.items()}


def _off(terms: Contract, date: Ms) -> float:
    """The discount that holds; of two that are alike the later in the list."""
    holding = [d for d in terms if round(d.effective_from * 1000) <= date]
    holding.sort(key=lambda d: (d.model is not None, d.provider is not None, d.effective_from))
    return holding[-1].discount if holding else 0.0


def _changes(model: ModelInfo) -> tuple[set[Ms], set[Ms]]:
    """The dates (Ms) and the times of the UTC day (Ms) at which a model's prices change."""
    dates: set[Ms] = set()
    times: set[Ms] = set()
    conditional = model.prices if isinstance(model.prices, list) else []
    for constraint in [c.constraint for c in conditional] + [v.constraint for v in model.price_variants or ()]:
        if isinstance(constraint, StartDateConstraint):
            dates.add(round(datetime.combine(constraint.start_date, time(), UTC).timestamp() * 1000))
        elif isinstance(constraint, TimeOfDateConstraint):
            times |= {_time_of_day(constraint.start_time), _time_of_day(constraint.end_time)}
    return dates, times


def _time_of_day(at: time) -> Ms:
    day = datetime.combine(datetime(1970, 1, 2, tzinfo=UTC), at)
    moment = day if day.tzinfo else day.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000) % DAY


def _of_library(found: Found, at: Ms, tier: str) -> Steps:
    context = CONTEXTS.get(tier, {"service_tier": tier}) if found.native else None
    return of_price(found.model.get_prices(datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at), context))


@njit(cache=True)
def _price(places, prices, which, inputs, outputs, searches, first, cost, guessed):  # type: ignore[no-untyped-def]
    """Price the calls from `first` on, up to one whose sheet is not known yet. Returns where it stopped.

    The parts at their rates, nano- and pico-dollars apart, so that nothing overflows and one rounding is enough.

    At most 2**31 tokens each way x 10**7 nano-dollars, 2**31 searches x 10**9, and 2**31 x 999 pico-dollars a part.
    """
    dates, times, first_date, first_time, first_cell, first_step, lengths = places
    rates, cell_guessed, sheets = prices
    ts, contract, model, tier = which
    input_all = inputs[0]
    counts = np.zeros(REQUEST + 1, np.int64)
    counts[REQUEST] = 1
    for i in range(first, len(cost)):
        sheet = sheets[contract[i], model[i]]
        if sheet == NONE:
            return i
        date = first_date[sheet + 1] - 1
        while date > first_date[sheet] and dates[date] > ts[i]:
            date -= 1
        clock = first_time[sheet]
        while clock + 1 < first_time[sheet + 1] and times[clock + 1] <= ts[i] % DAY:
            clock += 1
        clocks = first_time[sheet + 1] - first_time[sheet]
        at = (date - first_date[sheet]) * clocks + clock - first_time[sheet]
        cell = first_cell[sheet] + at * TIERS + tier[i]
        step = first_step[cell]
        while step + 1 < first_step[cell + 1] and lengths[step + 1] < input_all[i]:
            step += 1

        part_of = classes(i, inputs, outputs, searches)
        for part in range(REQUEST):
            counts[part] = part_of[part]

        nano = np.int64(0)
        pico = np.int64(0)
        for part in range(REQUEST + 1):
            if counts[part] > 0:
                rate = rates[step, part]
                nano += counts[part] * (rate // 1000)
                pico += counts[part] * (rate % 1000)
        nano += pico // 1000
        rest = pico % 1000
        if rest > 500 or (rest == 500 and nano % 2 == 1):
            nano += 1
        cost[i] = nano
        guessed[i] = cell_guessed[cell]
    return len(cost)
