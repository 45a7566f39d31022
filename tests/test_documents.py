"""Policy, directory and prices: what is wrong is said with file, line and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.directory import Directory
from schemas.documents import DocumentError, parse_document
from schemas.policy import Policy
from schemas.prices import PriceList
from stream.documents import read_document, recommended

POLICY = """version: 1
rules:
  - name: stop
    match: {kind: spend_spike, severity: page, usd_per_hour: 500}
    do:
      - notify
      - throttle: {strength: 0.9, lease: 15m}
    armed: true
"""


def refusal(text: str, model: type = Policy, name: str = "policy.yaml") -> str:
    with pytest.raises(DocumentError) as error:
        parse_document(text.encode(), name, model)
    return str(error.value)


def test_a_policy_says_what_it_means() -> None:
    rule = parse_document(POLICY.encode(), "policy.yaml", Policy).rules[0]
    assert (rule.match.kind, rule.match.severity, rule.match.usd_per_hour) == (("spend_spike",), "page", 500)
    assert [step.action for step in rule.do] == ["notify", "throttle"]
    assert rule.do[1].throttle is not None
    assert (rule.do[1].throttle.strength, rule.do[1].throttle.lease, rule.armed) == (0.9, 900_000, True)


def test_the_recommended_policy_is_valid_and_entirely_in_shadow() -> None:
    assert not any(rule.armed for rule in recommended().rules)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("severity: page", "severty: page"),
            "policy.yaml:4: rules[0].match.severty: unknown name; allowed: kind, severity",
        ),
        (("throttle:", "throtle:"), "policy.yaml:7: rules[0].do[1].throtle: unknown name; allowed: notify, throttle"),
        (("page", "panic"), "policy.yaml:4: rules[0].match.severity: Input should be 'notice', 'ticket' or 'page'"),
        (("spend_spike", "spike"), "unknown kind; allowed: spend_spike"),
        (
            ("lease: 15m", "lease: soon"),
            "policy.yaml:7: rules[0].do[1].throttle.lease: a lease is a number and s, m or h",
        ),
        (("lease: 15m", "lease: 25h"), "from 20s to 24h"),
        ((", lease: 15m", ""), "policy.yaml:7: rules[0].do[1].throttle.lease: Field required"),
        (("0.9", "1.5"), "less than or equal to 1"),
        (("version: 1", "version: 2"), "policy.yaml:1: version: Input should be 1"),
        (("    armed: true", "    armed: true\n    armed: false"), "policy.yaml:9: 'armed' is given twice"),
        (("- notify", "- shout"), "policy.yaml:6: rules[0].do[0]: a step is one of: notify; throttle: {strength, lease}"),
        (("- throttle: {strength: 0.9, lease: 15m}", "- throttle:"), "policy.yaml:7: rules[0].do[1]: a step is one of"),
        (("armed: true", "armed: 'yes'"), "policy.yaml:8: rules[0].armed: Input should be a valid boolean"),
        (("usd_per_hour: 500", "usd_per_hour: .inf"), "policy.yaml:4: rules[0].match.usd_per_hour: Input should be a finite"),
        (("spend_spike", "[]"), "policy.yaml:4: rules[0].match.kind: Tuple should have at least 1 item"),
        (("armed: true", "armed: 2026-13-45"), "policy.yaml:8: not a value: month must be in 1..12"),
        (("rules:", "rules: ["), "policy.yaml:3:"),
        (("name: stop", "name: &a stop\n    note: *a"), "policy.yaml:4: aliases are not allowed"),
    ],
)
def test_a_mistake_in_a_policy_is_named_with_its_line(change: tuple[str, str], says: str) -> None:
    assert says in refusal(POLICY.replace(*change))


def test_one_mistake_in_a_rule_is_one_line() -> None:
    assert len(refusal(POLICY.replace("page", "panic")).splitlines()) == 1


def test_two_rules_of_one_name_are_refused() -> None:
    twice = POLICY + POLICY.split("rules:\n")[1]
    assert refusal(twice) == "policy.yaml:2: rules: two rules are named 'stop'"


def test_not_utf8_and_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="not UTF-8"):
        parse_document(b"\xff", "policy.yaml", Policy)
    assert "version: Field required" in refusal("")
    with pytest.raises(DocumentError, match="No such file"):
        read_document(tmp_path / "none.yaml", Policy)


def test_a_file_over_the_size_cap_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DocumentError, match="larger than 64 MiB"):
        read_document(huge, Directory)


@pytest.mark.parametrize("name", ["d.yaml", "d.json"])
def test_a_document_nested_without_end_is_refused(name: str) -> None:
    assert "nested too deeply" in refusal("[" * 100_000 + "]" * 100_000, Directory, name)


def test_a_document_full_of_mistakes_shows_the_first_twenty() -> None:
    lines = refusal("tenants:\n" + "- {tenant: a, x: 1}\n" * 50, Directory, "d.yaml").splitlines()
    assert len(lines) == 21
    assert lines[-1] == "d.yaml: and 30 more problems"


def test_an_empty_directory_works() -> None:
    for name, text in (("d.json", b"{}"), ("d.yaml", b"")):
        assert parse_document(text, name, Directory).tenants == ()


def test_a_directory_is_looked_up_by_tenant_key_and_time() -> None:
    text = {
        "tenants": [{"tenant": "acme", "keys": [{"key_id": "k", "role": "chat", "features": ["search"], "replaces": "j"}]}],
        "declared_windows": [{"kind": "deploy", "tenant": "acme", "start_ts": 10, "end_ts": 20}],
    }
    directory = parse_document(json.dumps(text).encode(), "d.json", Directory)
    key = directory.key("acme", "k")
    assert key is not None
    assert key.role == "chat"
    assert [feature.feature for feature in key.features] == ["search"]
    assert directory.key("other", "k") is None
    assert [bool(directory.windows_at("acme", "k", at)) for at in (9, 10, 19.9, 20)] == [False, True, True, False]


def test_a_window_of_one_key_covers_no_other_and_its_tenant_may_be_unknown() -> None:
    text = "declared_windows: [{kind: load_test, tenant: new, key_id: k, start_ts: 10, end_ts: 20}]"
    directory = parse_document(text.encode(), "d.yaml", Directory)
    assert directory.tenant("new") is None
    assert [len(directory.windows_at("new", key, 15)) for key in ("k", "other")] == [1, 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tenants": [\n{"tenant": "a", "pln": "x"}]}', "d.json:2: tenants[0].pln: unknown name; allowed: "),
        ('{"timezone": "Mars/Olympus"}', "unknown timezone"),
        ('{"tenants": [{"tenant": "a"}, {"tenant": "a"}]}', "d.json:1: tenants: tenant 'a' is listed twice"),
        (
            '{"tenants": [{"tenant": "a",\n"keys": [{"key_id": "k"}, {"key_id": "k"}]}]}',
            "d.json:2: tenants[0].keys: key 'k' is listed twice",
        ),
        ('{"timezone": "UTC",\n"timezone": "Europe/Berlin"}', "d.json:2: 'timezone' is given twice"),
        ('{"tenants": [{"tenant": "a", "created_at": NaN}]}', "not a value: NaN"),
        ('{"tenants": [\n{"tenant" "a"}]}', "d.json:2: Expecting ':' delimiter"),
        (
            '{"tenants": [{"tenant": "a", "keys": [{"key_id": "k", "features": [{"feature": "x",\n"ownr": "y"}]}]}]}',
            "d.json:2: tenants[0].keys[0].features[0].ownr: unknown name; allowed: owner, contact",
        ),
        ('{"declared_windows": [{"kind": "deploy", "tenant": "a", "start_ts": 2, "end_ts": 1}]}', "after start_ts"),
        ('{"tenants": ', "d.json"),
    ],
)
def test_a_mistake_in_a_directory_is_named(text: str, says: str) -> None:
    assert says in refusal(text, Directory, "d.json")


def test_a_mistake_in_a_price_list_is_named_with_its_line() -> None:
    entry = {"provider": "p", "model": "m", "effective_from": 0, "input": 1, "output": 2, "unit": "USD per 1M tokens"}
    good = json.dumps([entry, entry], indent=1)
    assert len(parse_document(good.encode(), "prices.json", PriceList).root) == 2
    bad = good.replace('"input"', '"imput"', 1)
    assert "prices.json:6: [0].imput: unknown name; allowed: provider, model" in refusal(bad, PriceList, "prices.json")
