"""An object of JSON -> a call of the contract; msgspec judges, pydantic names why one was refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from pydantic import ValidationError

from schemas.usage import UsageEvent, bounds, check_parts


def _type(name: str) -> Any:
    bound = bounds(name)
    if "enum" in bound:
        return Literal[tuple(bound["enum"])]
    if bound["type"] == "string":
        meta = {"min_length": bound.get("minLength"), "max_length": bound["maxLength"], "pattern": bound.get("pattern")}
        return Annotated[str, msgspec.Meta(**meta)]
    number = int if bound["type"] == "integer" else float
    return Annotated[number, msgspec.Meta(ge=bound["minimum"], le=bound["maximum"])]


Call = msgspec.defstruct(
    "Call",
    [
        (name, _type(name)) if field.is_required() else (name, _type(name) | None, None)
        for name, field in UsageEvent.model_fields.items()
    ],
    namespace={"__post_init__": check_parts},
)


class Refused(Exception):
    """A line is no usage event: `reason`, and the `field` it is about."""

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


def json_of(text: bytes) -> Any:
    """The JSON value of a text, however long. Raises Refused with a reason that never holds a value."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"not JSON: {_without_values(error)}") from error


def convert(event: dict[str, Any]) -> Any:
    """The call that an object describes. Raises Refused with pydantic's reason, which never holds a value."""
    try:
        return msgspec.convert(event, Call, strict=True)
    except (msgspec.ValidationError, OverflowError) as refusal:
        raise why_refused(event) from refusal


def why_refused(event: dict[str, Any]) -> Refused:
    """Pydantic's word on an object that msgspec refused."""
    try:
        UsageEvent.model_validate(event)
    except ValidationError as error:
        return refusal_of(error)
    raise AssertionError("msgspec refused what the contract accepts")


def refusal_of(error: ValidationError) -> Refused:
    """The first thing that is wrong."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return Refused(first["msg"], ".".join(str(part) for part in first["loc"]))


def _without_values(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
