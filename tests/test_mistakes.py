"""Ordinary mistakes: each ends in one sentence that names what is wrong, exit status 1, never in a traceback or a wait."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actions.ledger import Ledger
from stream.documents import recommended
from stream.settings import Settings, SettingsError
from tests.conftest import SECRET, NewLedger
from tests.test_run import PRICES, burnguard, event

COMMAND = [sys.executable, "-c", "from stream.cli import main; main()"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = "".join(json.dumps(event(n, 1_780_000_000.0 + n, "key-1")) + "\n" for n in range(200)).encode()
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    (tmp_path / "calls.ndjson").write_bytes(lines)
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    (tmp_path / "bent.gz").write_bytes(gzip.compress(lines)[:40] + b"\xff" * 40)
    (tmp_path / "short.gz").write_bytes(gzip.compress(lines)[:-20])
    (tmp_path / "junk.sqlite").write_bytes(b"this is no database, but it is long enough to look like one" * 10)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nope.ndjson"), "nope.ndjson' does not exist"),
        (("run", "folder"), "folder' is a directory"),
        (("run", "bad.gz"), "bad.gz: not a whole gzip file: Not a gzipped file"),
        (("run", "bent.gz"), "bent.gz: not a whole gzip file"),
        (("run", "short.gz"), "short.gz: not a whole gzip file: Compressed file ended"),
        (("run", "calls.ndjson", "--history", "short.gz"), "short.gz: not a whole gzip file"),
        (("run", "calls.ndjson", "--ledger", "junk.sqlite"), "junk.sqlite: file is not a database"),
        (("run", "calls.ndjson", "--ledger", "none/l.sqlite"), "l.sqlite: unable to open database file"),
        (("stop", "--ledger", "junk.sqlite"), "junk.sqlite: file is not a database"),
        (("backtest", "bad.gz", "--out", "out"), "bad.gz: not a whole gzip file"),
        (("backtest", "short.gz", "--out", "out"), "short.gz: not a whole gzip file"),
        (("backtest", "calls.ndjson", "--out", "calls.ndjson/out"), "out: Not a directory"),
        (("policy", "check", "junk.sqlite"), "junk.sqlite:1:"),
    ],
)
def test_a_mistake_is_one_sentence(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    given = [
        a if a.startswith("-") or a in ("run", "stop", "backtest", "policy", "check") else str(folder / a) for a in arguments
    ]
    if arguments[0] == "run" and "--ledger" not in arguments:
        given += ["--ledger", str(folder / "l.sqlite")]
    result = burnguard(*given)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"ALLOW_NETWORKS": "10.0.0.0/8"}, "BURNGUARD_WEBHOOK_ALLOW_NETWORKS must be a JSON list"),
        ({"ALLOW_NETWORKS": '["10.0.0.1/8"]'}, "BURNGUARD_WEBHOOK_ALLOW_NETWORKS: "),
        ({"ALLOW_HTTP": "maybe"}, "BURNGUARD_WEBHOOK_ALLOW_HTTP: "),
        ({"URL": "ftp://example.com/"}, "BURNGUARD_WEBHOOK_URL must be https"),
        ({"URL": "https://"}, "BURNGUARD_WEBHOOK_URL: it names no host"),
        ({"URL": "https://[::1"}, "BURNGUARD_WEBHOOK_URL: Invalid IPv6 URL"),
        ({"URL": "https://foo..bar/"}, "BURNGUARD_WEBHOOK_URL: "),
        ({"URL": f"https://{'a' * 64}.com/"}, "BURNGUARD_WEBHOOK_URL: "),
        ({"URL": "https://example.com:99999/"}, "BURNGUARD_WEBHOOK_URL: Port out of range"),
        ({"SECRET": b"\xff\xfe"}, "BURNGUARD_WEBHOOK_SECRET_FILE: "),
        ({"SECRET": b"whsec_"}, "BURNGUARD_WEBHOOK_SECRET_FILE must hold one or two"),
        ({"SECRET": b"whsec_n*t-base64"}, "BURNGUARD_WEBHOOK_SECRET_FILE must hold one or two"),
        ({"SECRET": b""}, "BURNGUARD_WEBHOOK_SECRET_FILE must hold one or two"),
        ({"SECRET_FILE": "/nowhere"}, "BURNGUARD_WEBHOOK_SECRET_FILE: No such file"),
    ],
)
def test_a_setting_that_cannot_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, str | bytes], said: str
) -> None:
    secret = tmp_path / "secret"
    content = setting.get("SECRET", SECRET.encode())
    secret.write_bytes(content if isinstance(content, bytes) else content.encode())
    good = {"URL": "https://example.com/hook", "SECRET_FILE": str(secret)}
    for name, value in {**good, **{n: v for n, v in setting.items() if isinstance(v, str)}}.items():
        monkeypatch.setenv(f"BURNGUARD_WEBHOOK_{name}", value)
    with pytest.raises(SettingsError) as error:
        Settings().check(recommended())
    assert said in str(error.value)


def test_good_settings_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n{SECRET.rstrip('=')}\n")
    monkeypatch.setenv("BURNGUARD_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    for url in ("https://example.com/hook", "https://[2001:4860::1]:8443/", "https://exämple.com", "https://a_b.example"):
        monkeypatch.setenv("BURNGUARD_WEBHOOK_URL", url)
        Settings().check(recommended())


def test_a_standard_input_that_is_closed_ends_the_run(tmp_path: Path) -> None:
    line = f'"{COMMAND[0]}" -c "{COMMAND[2]}" run --ledger l.sqlite - <&-'
    result = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == "Error: standard input is closed: name a file, or pipe usage events in\n"


def test_a_second_run_on_a_ledger_ends_the_first_with_a_sentence(new_ledger: NewLedger) -> None:
    name = new_ledger()
    ledger = Ledger(name)
    process = subprocess.Popen(
        [*COMMAND, "run", "--ledger", name, "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    while ledger.last_beat() is None:
        assert process.poll() is None
    ledger.take_epoch(1)
    ledger.close()
    assert process.wait(timeout=30) == 1
    _, said = process.communicate()
    assert said == "Error: epoch 1 is over: another responder has taken the ledger\n"
