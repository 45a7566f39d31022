"""The directory: what the operator knows of tenants and keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from schemas.usage import SHOWN, Name, Seconds

Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=SHOWN)]
Money = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError) as error:
        raise ValueError(f"unknown timezone {name!r}; use an IANA name such as Europe/Berlin") from error
    return name


def _named(value: Any) -> Any:
    return {"feature": value} if isinstance(value, str) else value


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} is listed twice")
        seen.add(name)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re")


class Budget(_Closed):
    """A limit in dollars or tokens."""

    usd: Money | None = None
    tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    per: Literal["month", "week", "day"]
    hard: StrictBool = False

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
    """A feature of a key; its name alone is short for `{feature: name}`."""

    feature: Name


class Key(_Owned):
    """A key, never its secret. `replaces` names the key that it took over from."""

    key_id: Name
    role: Text | None = None
    features: tuple[Annotated[Feature, BeforeValidator(_named)], ...] = ()
    created_at: Seconds | None = None
    replaces: Name | None = None


class Tenant(_Owned):
    """A tenant and its keys."""

    tenant: Name
    plan: Text | None = None
    created_at: Seconds | None = None
    home_country: Text | None = None
    monthly_budget_usd: Money | None = None
    keys: tuple[Key, ...] = ()

    @field_validator("keys")
    @classmethod
    def _keys_are_unique(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        _refuse_twice("key", (key.key_id for key in keys))
        return keys


class DeclaredWindow(_Closed):
    """A time in which odd traffic is expected, for one key or (without key_id) for the whole tenant.

    The tenant need not be in the directory: a window may be declared before the tenant is.
    """

    kind: Literal["deploy", "load_test", "maintenance"]
    tenant: Name
    key_id: Name | None = None
    start_ts: Seconds
    end_ts: Seconds
    note: Text | None = None

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

    @field_validator("tenants")
    @classmethod
    def _tenants_are_unique(cls, tenants: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
        _refuse_twice("tenant", (tenant.tenant for tenant in tenants))
        return tenants

    @cached_property
    def _tenants(self) -> dict[str, Tenant]:
        return {tenant.tenant: tenant for tenant in self.tenants}

    @cached_property
    def _keys(self) -> dict[tuple[str, str], Key]:
        return {(tenant.tenant, key.key_id): key for tenant in self.tenants for key in tenant.keys}

    @cached_property
    def _windows(self) -> dict[str, list[DeclaredWindow]]:
        windows: dict[str, list[DeclaredWindow]] = {}
        for window in self.declared_windows:
            windows.setdefault(window.tenant, []).append(window)
        return windows

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
            for window in self._windows.get(tenant, ())
            if window.key_id in (None, key_id) and window.start_ts <= at_s < window.end_ts
        )
