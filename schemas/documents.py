"""Documents that people write (YAML or JSON): read strictly, refused with file, line and what is allowed."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
MAX_BYTES = 64 << 20
MAX_DEPTH = 64
SHOWN_PROBLEMS = 20


class DocumentError(ValueError):
    """What is wrong, as `file:line: path: problem`; one line per problem."""


def parse_document(text: bytes, name: str, model: type[M]) -> M:
    """The document as `model`. JSON is read as JSON where the name ends in .json, all else as YAML without aliases.

    Raises DocumentError. Line numbers are worked out only when something is wrong.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"{name}: larger than {MAX_BYTES >> 20} MiB")
    try:
        plain = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{name}: not UTF-8: byte {error.start}") from error
    try:
        value = _json(plain) if name.lower().endswith(".json") else _yaml(plain)
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        raise DocumentError(_explain(plain, name, model, error)) from error
    except json.JSONDecodeError as error:
        raise DocumentError(f"{name}:{error.lineno}: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise DocumentError(f"{name}:{mark.line + 1 if mark else 1}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise DocumentError(f"{name}: {error.reason}") from error
    except RecursionError as error:
        raise DocumentError(f"{name}: nested too deeply") from error


class _Strict(yaml.CSafeLoader):
    """Safe YAML in which a name given twice is an error: a typo must not disarm a rule."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=f"not a value: {error}", problem_mark=node.start_mark) from error


def _yaml(text: str) -> Any:
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
    return yaml.load(text, _Strict)  # a SafeLoader


class _GivenTwice(ValueError):
    """A JSON object names something twice; only the YAML reader knows its line."""


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError:
        raise
    except _GivenTwice as error:
        _yaml(text)
        raise yaml.MarkedYAMLError(problem=str(error)) from error
    except ValueError as error:
        raise yaml.MarkedYAMLError(problem=f"not a value: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _GivenTwice(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _no_constant(constant: str) -> None:
    raise ValueError(constant)


def _explain(text: str, name: str, model: type[BaseModel], error: ValidationError) -> str:
    try:
        root = yaml.compose(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        root = None
    # A list whose items were all refused is reported as too short as well: that says nothing.
    problems = [p for p in error.errors(include_url=False) if not (p["type"] == "too_short" and p["input"])]
    schema = model.model_json_schema(by_alias=True)
    lines = []
    for problem in problems[:SHOWN_PROBLEMS]:
        line, path = _place(root, tuple(part for part in problem["loc"] if not _tag(part)))
        place = f"{name}:{line}" if root else name
        lines.append(f"{place}: {path or 'document'}: {_problem(problem, schema)}")
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"{name}: and {len(problems) - SHOWN_PROBLEMS} more problems")
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


def _problem(problem: Any, schema: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        allowed = _fields_at(schema, problem["loc"][:-1])
        return "unknown name" + (f"; allowed: {', '.join(allowed)}" if allowed else "")
    return str(problem["msg"]).removeprefix("Value error, ")


def _fields_at(schema: dict[str, Any], loc: tuple[int | str, ...]) -> list[str]:
    """The names that a JSON Schema allows at a path."""
    here: Any = schema
    for part in loc:
        if tag := _tag(part):
            here = schema["$defs"][tag]
            continue
        here = _resolved(here, schema)
        here = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
        if "anyOf" in here:
            here = next((_resolved(c, schema) for c in here["anyOf"] if c.get("type") != "null"), {})
    return list(_resolved(here, schema).get("properties", {}))


def _tag(part: int | str) -> str:
    """The model that a tagged union chose, "" for every other part of a path."""
    return part[1:-1] if isinstance(part, str) and part.startswith("<") else ""


def _resolved(here: Any, schema: Any) -> Any:
    return schema["$defs"][here["$ref"].rsplit("/", 1)[1]] if "$ref" in here else here
