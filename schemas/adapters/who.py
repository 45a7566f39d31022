"""Whose a call is: the fields of a source that belong to the key, and what stands in where it names none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from schemas.usage import Name

SourceName = Literal["litellm", "otlp", "bifrost", "kong", "cloudevents", "openai", "anthropic", "gemini", "bedrock"]
SOURCES: tuple[SourceName, ...] = get_args(SourceName)
Fields = Annotated[tuple[Name, ...], Field(max_length=20)]


class Who(BaseModel):
    """Of one source. Paths are dotted; the first one that holds a text counts. Empty: the source's own fields.

    `tenant`, `key_id` and `model` stand in where the source names none; with `tenant_only` a call that names another tenant
    is refused. `origin_tenant_from` is for a producer that you trust to say for whom it calls. Users are told apart by a hash
    with `user_salt`; without it they are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")

    tenant_from: Fields = ()
    key_from: Fields = ()
    origin_tenant_from: Fields = ()
    tenant: Name | None = None
    tenant_only: bool = False
    key_id: Name | None = None
    model: Name | None = None
    user_salt: Annotated[str, Field(min_length=16, max_length=64, pattern=r"^[ -~]+$")] | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """What a source knows of the key: its own fields for tenant and key, and which others may be named (`fields`)."""

    tenant: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    fields: str = r"(?!)"


_CALLERS = "user|enduser|session|baggage|http|input|output|prompt|tag|llm|metadata(?!.user_api_key_(?!end_user))"
"""What whoever calls may set on a span, by its first word."""
BOUND: dict[SourceName, Bound] = {
    "litellm": Bound(
        tuple(f"metadata.user_api_key_{name}" for name in ("team_id", "org_id", "user_id")),
        ("metadata.user_api_key_hash",),
        r"metadata\.user_api_key_(?!end_user_id|request_route).+",
    ),
    "otlp": Bound(
        ("resource.service.namespace",),
        ("resource.service.name",),
        rf"resource\..+|attributes\.(?!({_CALLERS})(?![a-z])|gen_ai\.(?!virtual_key|customer|team)).+",
    ),
    "bifrost": Bound(
        ("bifrost.customer.id", "gen_ai.customer_id", "bifrost.team.id", "gen_ai.team_id"),
        ("bifrost.virtual_key.id", "gen_ai.virtual_key_id", "bifrost.virtual_key.name", "gen_ai.virtual_key_name"),
        r"bifrost\.(customer|team|business_unit|project|virtual_key|user)\..+|gen_ai\.(customer|team|virtual_key)_.+",
    ),
    "kong": Bound(
        ("consumer.custom_id", "consumer.username", "consumer.id"),
        ("authenticated_entity.id", "consumer.id"),
        r"(consumer|authenticated_entity|service|route|workspace)(\..+|_name)?",
    ),
    "cloudevents": Bound(("subject",), ("data.key_id", "subject"), r"subject|source|data\.(?!user|end_user|tags|metadata).+"),
    "openai": Bound(),
    "anthropic": Bound(),
    "gemini": Bound(),
    "bedrock": Bound(("accountId",), (), r"accountId|identity\..+"),
}


class Sources(RootModel[dict[SourceName, Who]]):
    """The document that says whose the calls of each source are."""

    @model_validator(mode="after")
    def _bound_to_the_key(self) -> Sources:
        for name, who in self.root.items():
            for path in (*who.tenant_from, *who.key_from):
                if not re.fullmatch(BOUND[name].fields, path):
                    raise ValueError(f"{name}: {path} does not belong to the key: whoever calls may set it")
        return self

    def of(self, name: SourceName, tenant: str | None = None, key_id: str | None = None, model: str | None = None) -> Who:
        """What holds for a source; `tenant`, `key_id` and `model` stand in before the document's own."""
        who, bound = self.root.get(name, Who()), BOUND[name]
        return Who.model_validate(
            who.model_dump()
            | {"tenant_from": who.tenant_from or bound.tenant, "key_from": who.key_from or bound.key}
            | {
                field: value
                for field, value in (("tenant", tenant), ("key_id", key_id), ("model", model))
                if value is not None
            }
        )
