"""The repository keeps what it says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import actions
import detectors
import schemas
import stream
from stream import metrics

ROOT = Path(__file__).parent.parent


def test_the_packages_are_this_checkouts() -> None:
    for package in (schemas, detectors, actions, stream):
        assert Path(str(package.__file__)).is_relative_to(ROOT)


def test_the_lock_is_hashed_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\w)", lock) if "==" in entry.split("\n")[0])


def test_the_readmes_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_every_kind_has_a_runbook() -> None:
    from schemas.signals import FAMILIES

    assert all((ROOT / "docs" / "runbooks" / f"{kind}.md").exists() for kind in FAMILIES)


def test_the_metrics_page_is_fresh() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics.page()
