"""Documents that people write (YAML or JSON): read strictly, refused with file, line and what is allowed."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
MAX_BYTES = 64 << 20


class DocumentError(ValueError):
    """What is wrong, as `file:line: path: problem`; one line per problem."""


def parse_document(text: bytes, name: str, model: type[M]) -> M:
    """The document as `model`. JSON is read as JSON where the name ends in .json, all else as YAML without aliases.

    Raises DocumentError. Line numbers are worked out only when something is wrong.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"{name}: larger than {MAX_BYTES} bytes")
    try:
        plain = text.decode()
    except UnicodeDecodeError as error:
        raise DocumentError(f"{name}: not UTF-8: byte {error.start}") from error
    try:
        value = msgspec.json.decode(text) if name.endswith(".json") else _yaml(plain, name)
        return model.model_validate(value if value is not None else {})
    except (msgspec.DecodeError, RecursionError) as error:
        raise DocumentError(f"{name}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise DocumentError(f"{name}:{mark.line + 1 if mark else 1}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise DocumentError(f"{name}: {error}") from error
    except ValidationError as error:
        raise DocumentError(_explain(plain, name, model, error)) from error


class _Strict(yaml.CSafeLoader):
    """Safe YAML in which a name given twice is an error: a typo must not disarm a rule."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml(text: str, name: str) -> Any:
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError(f"{name}: aliases are not allowed")
    return yaml.load(text, _Strict)  # a SafeLoader


def _explain(text: str, name: str, model: type[BaseModel], error: ValidationError) -> str:
    try:
        root = yaml.compose(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        root = None
    lines = []
    for problem in error.errors(include_url=False):
        loc = tuple(part for part in problem["loc"] if not (isinstance(part, str) and "[" in part))
        line, path = _place(root, loc)
        lines.append(f"{name}:{line}: {path or 'document'}: {_problem(problem, model, loc)}")
    return "\n".join(lines)


def _place(node: Any, loc: tuple[int | str, ...]) -> tuple[int, str]:
    """Line (from 1) and path of the deepest part of `loc` that stands in the document."""
    line, path = (node.start_mark.line + 1 if node else 1), ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
    return line, path


def _problem(problem: Any, model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    if problem["type"] == "extra_forbidden":
        allowed = _fields_at(model, loc[:-1])
        return "unknown name" + (f"; allowed: {', '.join(allowed)}" if allowed else "")
    return str(problem["msg"]).removeprefix("Value error, ")


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The names that the model allows at a path, found in its JSON Schema."""
    schema = model.model_json_schema(by_alias=True)
    here: Any = schema
    for part in loc:
        here = _resolved(here, schema)
        here = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
        if "anyOf" in here:
            here = next((_resolved(c, schema) for c in here["anyOf"] if c.get("type") != "null"), {})
    return list(_resolved(here, schema).get("properties", {}))


def _resolved(here: Any, schema: Any) -> Any:
    return schema["$defs"][here["$ref"].rsplit("/", 1)[1]] if "$ref" in here else here
