"""The pages of docs/sources hold: every payload on them becomes what stands below it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from schemas.adapters import native
from schemas.adapters.who import SOURCES
from schemas.usage import UsageEvent
from stream.cli import main

PAGES = sorted((Path(__file__).parent.parent / "docs/sources").glob("*.md"))
EXAMPLE = re.compile(r"```json\n(.+?)```\s+```\nburnguard (convert .+?) \S+\n```\s+```json\n(.+?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(*found.groups(), id=f"{page.stem}: {found[2]}")
    for page in PAGES
    for found in EXAMPLE.finditer(page.read_text())
]


def rows(page: Path) -> list[list[str]]:
    """The cells of the tables, without their heads."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


def named(text: str) -> set[str]:
    return {name for name in re.findall(r"`([^`]+)`", text) if name in UsageEvent.model_fields}


@pytest.mark.parametrize(("payload", "command", "events"), EXAMPLES)
def test_the_payload_becomes_what_stands_below_it(payload: str, command: str, events: str) -> None:
    result = CliRunner().invoke(main, [*shlex.split(command), "-"], input=payload)
    made = [json.loads(line) for line in result.stdout.splitlines()]
    said: list[dict[str, Any]] = [json.loads(line) for line in events.splitlines()]
    for event, shown in zip(made, said, strict=True):
        if "ts" not in shown:
            del event["ts"]  # the time at which it was read
    assert made == said
    assert result.exit_code == 0


def test_every_source_has_an_example() -> None:
    commands = " ".join(str(example.values[1]) for example in EXAMPLES) + " "
    assert all(f"--from {source} " in commands for source in SOURCES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_table_says_where_every_field_of_its_example_comes_from(page: Path) -> None:
    told = named(" ".join(cell for row in rows(page) for cell in row)) | {"tenant", "key_id"}
    shown = [json.loads(line) for found in EXAMPLE.finditer(page.read_text()) for line in found[3].splitlines()]
    assert {name for event in shown for name in event} <= told | {"provider", "model", "operation", "latency_ms"}


def test_our_own_events_are_taken_as_they_stand() -> None:
    page = next(page for page in PAGES if page.stem == "native")
    found = re.search(r"```json\n(.+?)```", page.read_text(), re.DOTALL)
    assert found is not None
    reading = native.calls(found[1].encode(), native.WHO, 0.0)
    assert (reading.events, reading.refused) == ([json.loads(found[1])], [])
