"""The directory: what the operator knows of tenants and keys."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(min_length=1, max_length=1024)]
EpochS = Annotated[float, Field(ge=0, le=4_102_444_800, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError) as error:
        raise ValueError(f"unknown timezone {name!r}; use an IANA name such as Europe/Berlin") from error
    return name


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(_Closed):
    """A limit in dollars or tokens."""

    usd: Money | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    per: Literal["month", "week", "day"]
    hard: bool = False

    @model_validator(mode="after")
    def _one_unit(self) -> Budget:
        if (self.usd is None) == (self.tokens is None):
            raise ValueError("a budget is either usd or tokens")
        return self


class _Owned(_Closed):
    owner: Text | None = None
    contact: Text | None = None
    finance_contact: Text | None = None
    cost_center: Text | None = None
    runbook: Text | None = None
    environment: Text | None = None
    budgets: tuple[Budget, ...] = ()
    revenue_usd: Money | None = None


class Feature(_Owned):
    """A feature of a key, where more than its name is known."""

    feature: Text


class Key(_Owned):
    """A key, never its secret. `replaces` names the key that it took over from."""

    key_id: Text
    role: Text | None = None
    features: tuple[Text | Feature, ...] = ()
    created_at: EpochS | None = None
    replaces: Text | None = None


class Tenant(_Owned):
    """A tenant and its keys."""

    tenant: Text
    plan: Text | None = None
    created_at: EpochS | None = None
    home_country: Text | None = None
    monthly_budget_usd: Money | None = None
    keys: tuple[Key, ...] = ()


class DeclaredWindow(_Closed):
    """A time in which odd traffic is expected, for one key or (without key_id) for the whole tenant."""

    kind: Literal["deploy", "load_test", "maintenance"]
    tenant: Text
    key_id: Text | None = None
    start_ts: EpochS
    end_ts: EpochS
    note: str | None = None

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> DeclaredWindow:
        if self.end_ts <= self.start_ts:
            raise ValueError("end_ts must be after start_ts")
        return self


class Directory(_Closed):
    """Everything known; an empty one works."""

    tenants: tuple[Tenant, ...] = ()
    declared_windows: tuple[DeclaredWindow, ...] = ()
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"

    @model_validator(mode="after")
    def _names_are_unique(self) -> Directory:
        if len(self._tenants) < len(self.tenants):
            raise ValueError("a tenant is listed twice")
        if len(self._keys) < sum(len(tenant.keys) for tenant in self.tenants):
            raise ValueError("a tenant lists a key twice")
        return self

    @cached_property
    def _tenants(self) -> dict[str, Tenant]:
        return {tenant.tenant: tenant for tenant in self.tenants}

    @cached_property
    def _keys(self) -> dict[tuple[str, str], Key]:
        return {(tenant.tenant, key.key_id): key for tenant in self.tenants for key in tenant.keys}

    def tenant(self, name: str) -> Tenant | None:
        """The tenant of that name."""
        return self._tenants.get(name)

    def key(self, tenant: str, key_id: str) -> Key | None:
        """The key of that id."""
        return self._keys.get((tenant, key_id))

    def windows_at(self, tenant: str, key_id: str, at_s: float) -> tuple[DeclaredWindow, ...]:
        """The declared windows that cover this key at this time (epoch seconds)."""
        return tuple(
            window
            for window in self.declared_windows
            if window.tenant == tenant and window.key_id in (None, key_id) and window.start_ts <= at_s < window.end_ts
        )
