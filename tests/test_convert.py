"""`burnguard convert`: what a user sees of a payload in a minute."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.decode import Decoder, split
from stream.cli import main
from stream.cli_convert import MAX_BYTES
from tests.foreign import CAPTURED, PAYLOADS, SECRET_TEXT, TELLERS, Truth, body, litellm

CALL = Truth(1_000, 500, 30, 70, 90, 10, frozenset(("cached", "write", "write_1h", "reasoning")))


def convert(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)], input=stdin)


@pytest.mark.parametrize(("source", "name"), CAPTURED)
def test_what_it_prints_decodes_without_quarantine(source: str, name: str) -> None:
    result = convert("--from", source, PAYLOADS / name)
    batch, refused = Decoder().decode(split(result.stdout_bytes))
    assert refused == []
    assert result.exit_code == 0
    assert f"calls    {len(batch)}\nrefused  0\n" in result.stderr
    assert len(batch) > 0


def test_a_pipe_an_array_a_packed_file_and_lines_say_the_same(tmp_path: Path) -> None:
    whole = (PAYLOADS / "litellm_1.106.2.json").read_bytes()
    (tmp_path / "batch.gz").write_bytes(gzip.compress(whole))
    lines = b"\n".join(body(item) for item in json.loads(whole))
    said = convert("--from", "litellm", PAYLOADS / "litellm_1.106.2.json").stdout_bytes
    assert said.count(b"\n") == 4
    assert convert("--from", "litellm", "-", stdin=whole).stdout_bytes == said
    assert convert("--from", "litellm", "-", stdin=lines).stdout_bytes == said
    assert convert("--from", "litellm", tmp_path / "batch.gz").stdout_bytes == said


def test_it_says_what_was_refused_and_why_and_what_is_no_call() -> None:
    bent = [litellm(CALL), litellm(CALL) | {"prompt_tokens": -1}, litellm(CALL) | {"prompt_tokens": "x"}, 7]
    result = convert("--from", "litellm", "-", stdin=body(bent))
    assert result.exit_code == 1
    assert result.stdout_bytes.count(b"\n") == 1
    assert (
        "refused  3\n  2 x prompt_tokens: not a count (first: part 2)\n  1 x not a JSON object (first: part 4)\n"
        in result.stderr
    )
    result = convert("--from", "otlp", PAYLOADS / "openai_v2_2.4b0.pb")
    assert "passed   1\n  1 x span around calls\n" in result.stderr


def test_what_the_source_does_not_name_is_yours_to_say() -> None:
    payload = body(TELLERS["bedrock"].emit(CALL))
    result = convert("--from", "bedrock", "-", stdin=payload)
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
    assert "no tenant" in result.stderr
    given = ("--tenant", "acme", "--key-id", "k", "--model", "anthropic.claude-sonnet-4-5-20250929-v1:0")
    event = json.loads(convert("--from", "bedrock", *given, "-", stdin=payload).stdout_bytes)
    assert (event["tenant"], event["key_id"], event["model"]) == ("acme", "k", "anthropic.claude-sonnet-4-5-20250929-v1:0")


@pytest.mark.parametrize("name", TELLERS)
def test_neither_prompt_nor_answer_is_printed(name: str) -> None:
    teller = TELLERS[name]
    whole = body(teller.emit(CALL))
    for stdin in (whole, whole[: len(whole) // 2], whole.replace(b"okens", b"okenz")):
        result = convert("--from", teller.source, "-", stdin=stdin)
        assert SECRET_TEXT not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (("--from", "kafka"), b"", "'kafka' is not one of 'litellm', 'otlp'"),
        (("--from", "litellm", "--tenant", "a\nb"), b"", "--tenant, --key-id and --model: 1 to 256 characters"),
        (
            ("--from", "litellm", "--sources"),
            b"litellm: {tenant_from: [end_user]}",
            "litellm: end_user does not belong to the key",
        ),
        (("--from", "litellm", "--sources"), b"litelm: {}", "sources.yaml:1: litelm"),
    ],
)
def test_mistakes_are_said(tmp_path: Path, arguments: tuple[str, ...], content: bytes, said: str) -> None:
    sources = tmp_path / "sources.yaml"
    sources.write_bytes(content)
    result = convert(*arguments, *([sources] if "--sources" in arguments else []), "-", stdin=b"[]")
    assert said in result.output
    assert result.exit_code in (1, 2)


def test_a_broken_packed_file_and_too_much_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    assert "broken.gz: not a whole gzip file" in convert("--from", "litellm", tmp_path / "broken.gz").output
    monkeypatch.setattr("stream.cli_convert.MAX_BYTES", 1 << 20)
    assert MAX_BYTES == 256 << 20
    assert "larger than 1 MiB" in convert("--from", "litellm", "-", stdin=b" " * ((1 << 20) + 1)).output
