"""Who may send to the intake: a document that names producers by the hash of their token."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from schemas.usage import Name


class Producer(BaseModel):
    """Who holds a token. With a `tenant` it writes that one only; `key_id` and `model` stand in where a call names none.

    A trusted one may state `origin_tenant`. Two entries of one name: while you exchange its token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")

    name: Name
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    tenant: Name | None = None
    key_id: Name | None = None
    model: Name | None = None
    trusted: bool = False


class Producers(RootModel[Annotated[tuple[Producer, ...], Field(min_length=1, max_length=1_000)]]):
    """All of them."""

    @model_validator(mode="after")
    def _told_apart(self) -> Producers:
        hashes = [producer.token_sha256 for producer in self.root]
        if len(set(hashes)) < len(hashes):
            raise ValueError("two producers have the same token_sha256")
        return self

    def holder(self, token: str) -> Producer | None:
        """Whose token it is, None where it is nobody's; how long that takes tells nothing of any token."""
        given, found = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest(), None
        for producer in self.root:
            if hmac.compare_digest(producer.token_sha256, given):
                found = producer
        return found
