"""The intake over HTTP: what is answered is what is in Kafka, and who may not write does not."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as described_by

from schemas.adapters.sources import usage_events
from schemas.adapters.who import Sources
from schemas.decode import Decoder, split
from schemas.quarantine import fingerprint
from stream import intake_http
from stream.cli import main
from stream.intake import MOST_ROWS, MOST_SHOWN
from stream.problems import hindrances
from stream.topics import Cluster, Topic
from tests.foreign import CAPTURED, PAYLOADS, SECRET_TEXT, TELLERS, Truth, body, litellm, span, traces, who
from tests.intakes import ACME_TOKEN, KAFKA, TOKEN, TRUSTED_TOKEN, Answered, Listening, hashed, intake
from tests.workers import eventually

CALL = Truth(1_000, 500, 30, 70, 90, 10, frozenset(("cached", "write", "write_1h", "reasoning")))
COUNTS = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 1}
CHECKS = [
    not_a_server_error,
    described_by.status_code_conformance,
    described_by.content_type_conformance,
    described_by.response_schema_conformance,
    described_by.response_headers_conformance,
    described_by.unsupported_method,
    described_by.ignored_auth,
]


@pytest.fixture
def listening() -> Iterator[Listening]:
    with intake() as running:
        yield running


def event(n: int = 1, **rest: Any) -> dict[str, Any]:
    required = {"event_id": f"e{n}", "ts": 1_790_000_000.0, "tenant": "acme", "key_id": "k", "model": "m"}
    return required | {"input_tokens": 10, "output_tokens": 1} | rest


def path_of(source: str) -> str:
    return "/v1/traces" if source == "otlp" else f"/v1/usage/{source}"


@pytest.mark.parametrize(("source", "name"), CAPTURED)
def test_what_real_software_sends_is_in_the_topic_as_convert_prints_it(listening: Listening, source: Any, name: str) -> None:
    sent = (PAYLOADS / name).read_bytes()
    kind = "application/x-protobuf" if name.endswith(".pb") else "application/json"
    assert listening.post(path_of(source), sent, kind=kind).status == 200
    told = usage_events(source, sent, who(source), time.time()).events
    assert listening.kafka.calls() == told != []
    assert [r.key for r in listening.kafka.records] == [call["tenant"].encode() for call in told]
    lines = b"".join(r.value + b"\n" for r in listening.kafka.records)
    assert Decoder().decode(split(lines))[1] == []


def test_our_own_events_are_one_an_array_or_lines(listening: Listening) -> None:
    whole = [event(1, cached_input_tokens=3, user_id="h"), event(2, feature="f")]
    assert listening.post("/v1/usage/native", body(whole[0])).json["taken"] == 1
    assert listening.post("/v1/usage/native", body(whole)).json["taken"] == 2
    assert listening.post("/v1/usage/native", b"\n".join(map(body, whole)), kind="application/x-ndjson").json["taken"] == 2
    assert listening.kafka.calls() == [whole[0], *whole, *whole]


def test_only_a_trusted_producer_says_for_whom_it_calls_and_nobody_says_when_a_call_arrived(listening: Listening) -> None:
    said = event(origin_tenant="customer", arrival_ts=1.0, messages=[SECRET_TEXT])
    for token in (TOKEN, TRUSTED_TOKEN):
        assert listening.post("/v1/usage/native", body(said), token).status == 200
    assert listening.kafka.calls() == [event(), event(origin_tenant="customer")]


def test_a_refused_call_keeps_no_other_out(listening: Listening) -> None:
    sent = body([event(1), event(2, input_tokens=-1), event(3), "prose", event(4, cached_input_tokens=11)])
    answer = listening.post("/v1/usage/native", sent)
    assert (answer.status, answer.json["taken"], answer.json["refused"]) == (200, 2, 3)
    assert [(r["part"], r["field"]) for r in answer.json["reasons"]] == [(2, "input_tokens"), (4, ""), (5, "")]
    assert [call["event_id"] for call in listening.kafka.calls()] == ["e1", "e3"]
    rows = listening.kafka.rows()
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert {(row["partition"], row["position"], row["length"], row["hash"]) for row in rows} == {
        (-1, -1, len(sent), fingerprint(sent))
    }
    assert rows[1]["reason"] == "gateway, native: not a JSON object"


def test_where_all_was_refused_the_sender_hears_it_by_the_status(listening: Listening) -> None:
    for sent in (b"", b"{", b"[[]]", body(event(ts="now"))):
        answer = listening.post("/v1/usage/native", sent)
        assert (answer.status, answer.json["taken"], answer.json["refused"]) == (422, 0, 1)
    assert listening.post("/v1/usage/native", b"[]").status == 200


def test_a_body_full_of_rubbish_is_counted_and_told_in_few_rows(listening: Listening) -> None:
    answer = listening.post("/v1/usage/native", b"{}\n" + (b'{"model": "' + b"m" * 60 + b'"}\n') * 5_000)
    assert (answer.json["refused"], len(answer.json["reasons"])) == (5_001, MOST_SHOWN)
    rows = listening.kafka.rows()
    assert len(rows) == MOST_ROWS + 1
    assert rows[-2]["reason"] == "gateway, native: and 4001 more calls of this body"


def test_where_the_rest_of_a_body_is_not_looked_at_the_sender_is_told(listening: Listening) -> None:
    answer = listening.post("/v1/usage/native", body(event()) + b"\n" + b"{}\n" * 100_000)
    assert (answer.status, answer.json["taken"]) == (200, 1)
    assert answer.json["reasons"][-1]["reason"].endswith("parts: the rest was not looked at")
    assert listening.kafka.rows()[-1]["reason"].endswith("the rest was not looked at")


LONG = "x" * 400_000
MANY_NAMES = {f"a{n}": 1 for n in range(40_000)}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/usage/native", b"{}\n" * 300_000),
        ("/v1/usage/native", b"[" + b"[]," * 300_000 + b"[]]"),
        ("/v1/usage/kong", body({"ai": {f"{n}": {"usage": {}} for n in range(40_000)}})),
        ("/v1/usage/bifrost", body({"Spans": [{}] * 200_000})),
        ("/v1/usage/bifrost", body({"RootSpan": {"Attributes": MANY_NAMES}, "Spans": [{"Kind": "llm.call"}] * 20_000})),
        ("/v1/traces", body(traces(*[{}] * 200_000))),
        ("/v1/traces", body(traces(*[{}] * 60_000, resource={"gen_ai.operation.name": LONG, "error.type": LONG}))),
    ],
)
def test_a_body_that_is_made_to_cost_much_costs_little(listening: Listening, path: str, sent: bytes) -> None:
    began = time.process_time()
    assert listening.post(path, sent).status in (200, 400, 422)
    assert time.process_time() - began < 3
    assert len(listening.kafka.rows()) <= MOST_ROWS + 1


def test_nothing_is_answered_before_kafka_has_it(listening: Listening) -> None:
    listening.kafka.open.clear()
    with ThreadPoolExecutor(1) as aside:
        asked = aside.submit(listening.post, "/v1/usage/native", body([event(1), event(2, ts=-1)]))
        eventually(lambda: listening.kafka.waiting >= 1, 10, "Kafka keeps them waiting")
        time.sleep(0.1)
        assert not asked.done()
        assert listening.kafka.records == []
        listening.kafka.open.set()
        assert asked.result().status == 200
    assert len(listening.kafka.records) == 2


def test_while_kafka_is_away_the_sender_is_told_to_come_again_and_the_ids_make_that_harmless(listening: Listening) -> None:
    sent = body([litellm(CALL), litellm(CALL) | {"id": "chatcmpl-2"}])
    listening.kafka.away = True
    answer = listening.post("/v1/usage/litellm", sent)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert listening.ask("GET", "/ready").status == 503
    assert listening.ask("GET", "/health").status == 200
    listening.kafka.away = False
    assert listening.post("/v1/usage/litellm", sent).status == 200
    assert listening.ask("GET", "/ready").status == 200
    assert [call["event_id"] for call in listening.kafka.calls()] == ["chatcmpl-1", "chatcmpl-1", "chatcmpl-2"]


def test_what_finds_no_room_is_turned_away_and_room_comes_back() -> None:
    large = body([event(n, user_agent="x" * 4_000) for n in range(200)])
    with intake(buffer=4 << 20) as listening, ThreadPoolExecutor(8) as aside:
        listening.kafka.open.clear()
        asked = [aside.submit(listening.post, "/v1/usage/native", large) for _ in range(2)]
        eventually(lambda: listening.kafka.waiting >= 2, 10, "Kafka keeps them waiting")
        turned = listening.post("/v1/usage/native", large)
        assert (turned.status, turned.headers["retry-after"]) == (429, "2")
        listening.kafka.open.set()
        assert [each.result().status for each in asked] == [200, 200]
        assert listening.post("/v1/usage/native", large).status == 200
        assert len(listening.kafka.calls()) == 600


def test_a_body_alone_has_always_room() -> None:
    with intake(buffer=1_000) as listening:
        assert listening.post("/v1/usage/native", body([event(n) for n in range(100)])).status == 200


def test_more_requests_than_there_are_places_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_http, "MOST_REQUESTS", 2)
    with intake() as listening, ThreadPoolExecutor(2) as aside:
        listening.kafka.open.clear()
        asked = [aside.submit(listening.post, "/v1/usage/native", body(event(n))) for n in range(2)]
        eventually(lambda: listening.kafka.waiting >= 2, 10, "Kafka keeps them waiting")
        assert listening.post("/v1/usage/native", body(event(3))).status == 429
        listening.kafka.open.set()
        assert [each.result().status for each in asked] == [200, 200]


class TestTraces:
    GOOD = COUNTS | {"gen_ai.response.model": "gpt-5"}
    MIXED = body(traces(span(GOOD), span(GOOD | {"gen_ai.usage.input_tokens": 1 << 40}, "11" * 8)))

    def test_spans_that_were_refused_are_a_partial_success(self, listening: Listening) -> None:
        answer = listening.post("/v1/traces", gzip.compress(self.MIXED), content_encoding="gzip")
        assert answer.status == 200
        assert answer.json["partialSuccess"]["rejectedSpans"] == "1"
        assert "the first: input_tokens: " in answer.json["partialSuccess"]["errorMessage"]
        assert len(listening.kafka.calls()) == len(listening.kafka.rows()) == 1

    def test_a_whole_success_says_nothing(self, listening: Listening) -> None:
        packed = gzip.compress((PAYLOADS / "openllmetry_0.62.4.pb").read_bytes())
        answer = listening.post("/v1/traces", packed, kind="application/x-protobuf", content_encoding="gzip")
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"", "application/x-protobuf")
        assert listening.post("/v1/traces", body(traces(span({"http.route": "/"})))).json == {}
        assert listening.post("/v1/traces", b"", kind="application/x-protobuf").status == 200

    @pytest.mark.parametrize(("sent", "token", "status"), [(b"\xff\xff", TOKEN, 400), (b"", "nobody's", 401)])
    def test_an_error_is_a_status_in_the_senders_encoding(
        self, listening: Listening, sent: bytes, token: str, status: int
    ) -> None:
        answer = listening.post("/v1/traces", sent, token, kind="application/x-protobuf")
        assert answer.status == status
        assert Status.FromString(answer.body).message

    def test_kafka_away_is_an_error_that_exporters_send_again(self, listening: Listening) -> None:
        listening.kafka.away = True
        answer = listening.post("/v1/traces", self.MIXED)
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")

    def test_another_content_type_is_not_guessed(self, listening: Listening) -> None:
        assert listening.post("/v1/traces", self.MIXED, kind="text/plain").status == 415


class TestWhoMayWrite:
    @pytest.mark.parametrize("given", [{}, {"authorization": "Bearer nobody's"}, {"authorization": f"Basic {TOKEN}"}])
    @pytest.mark.parametrize("path", ["/v1/usage/native", "/v1/usage/litellm", "/v1/traces"])
    def test_without_a_token_nothing_is_even_read(self, listening: Listening, given: dict[str, str], path: str) -> None:
        with socket.create_connection(listening.address, timeout=10) as connection:
            told = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{told}content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
            connection.sendall(head.encode())
            answer = connection.recv(4_096)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"www-authenticate: bearer" in answer.lower()
        assert listening.kafka.records == []

    def test_a_tenants_token_writes_no_other_tenant(self, listening: Listening) -> None:
        answer = listening.post("/v1/usage/native", body([event(1), event(2, tenant="victim")]), ACME_TOKEN)
        assert answer.json["reasons"] == [
            {"part": 2, "field": "tenant", "reason": "not the tenant that this producer may write"}
        ]
        foreign = listening.post("/v1/usage/litellm", body(litellm(CALL)), ACME_TOKEN)
        assert foreign.status == 422
        named = traces(span(COUNTS | {"gen_ai.response.model": "m"}), resource={"service.namespace": "victim"})
        assert listening.post("/v1/traces", body(named), ACME_TOKEN).status == 400
        assert {call["tenant"] for call in listening.kafka.calls()} == {"acme"}
        assert "victim" not in json.dumps(listening.kafka.rows())

    def test_a_tenants_token_says_whose_a_providers_answer_is(self, listening: Listening) -> None:
        sent = body(TELLERS["openai chat"].emit(CALL))
        assert listening.post("/v1/usage/openai", sent, ACME_TOKEN).status == 200
        assert [(call["tenant"], call["key_id"]) for call in listening.kafka.calls()] == [("acme", "key-1")]
        assert listening.post("/v1/usage/openai", sent, TOKEN).status == 422

    def test_fields_of_sources_are_the_operators_to_choose(self) -> None:
        sources = Sources.model_validate({"litellm": {"tenant_from": ["metadata.user_api_key_org_id"], "tenant": "no-org"}})
        with intake(sources) as listening:
            assert listening.post("/v1/usage/litellm", body(litellm(CALL))).status == 200
            assert listening.kafka.calls()[0]["tenant"] == "no-org"


class TestHostileBodies:
    def test_a_bomb_is_stopped_at_the_cap(self, listening: Listening) -> None:
        bomb = gzip.compress(b" " * (64 << 20), 9)
        assert len(bomb) < 1 << 20
        began = time.monotonic()
        assert listening.post("/v1/usage/native", bomb, content_encoding="gzip").status == 413
        assert time.monotonic() - began < 5
        assert listening.kafka.records == []

    def test_a_body_over_the_cap_is_not_read_to_its_end(self, listening: Listening) -> None:
        with socket.create_connection(listening.address, timeout=10) as connection:
            head = f"POST /v1/usage/native HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
            connection.sendall((head + "transfer-encoding: chunked\r\n\r\n").encode())
            with pytest.raises(OSError):  # the intake hangs up
                while True:
                    connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")

    @pytest.mark.parametrize(
        "packed",
        [
            b"no gzip",
            gzip.compress(body(event()))[:-4],
            gzip.compress(body(event())) + gzip.compress(b""),
            zlib.compress(body(event())),
            b"",
        ],
        ids=["plain", "cut short", "two streams", "zlib", "nothing"],
    )
    def test_what_is_not_packed_as_it_says_is_refused(self, listening: Listening, packed: bytes) -> None:
        assert listening.post("/v1/usage/native", packed, content_encoding="gzip").status == 400
        assert listening.post("/v1/usage/native", packed, content_encoding="br").status == 415

    def test_a_body_that_trickles_in_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intake_http, "BODY_WITHIN_S", 0.3)
        with intake() as listening, socket.create_connection(listening.address, timeout=10) as connection:
            head = f"POST /v1/usage/native HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 99\r\n\r\n"
            connection.sendall(head.encode())
            stop = threading.Event()

            def trickle() -> None:
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

            slow = threading.Thread(target=trickle)
            slow.start()
            assert connection.recv(4_096).startswith(b"HTTP/1.1 408 ")
            stop.set()
            slow.join()
            assert listening.post("/v1/usage/native", body(event())).status == 200

    def test_who_hangs_up_in_the_middle_leaves_nothing_behind(self) -> None:
        with intake(buffer=1 << 20) as listening:
            for _ in range(3):
                with socket.create_connection(listening.address) as connection:
                    head = f"POST /v1/usage/native HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
                    connection.sendall((head + "content-length: 1000000\r\n\r\n").encode() + b" " * 600_000)
            large = body([event(user_agent="x" * 4_000)] * 200)
            eventually(lambda: listening.post("/v1/usage/native", large).status == 200, 10, "their room is free again")

    @pytest.mark.parametrize("name", TELLERS)
    def test_prompts_stand_in_no_answer_row_event_or_log(
        self, listening: Listening, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        teller = TELLERS[name]
        whole = body(teller.emit(CALL))
        answers: list[Answered] = []
        for sent in (whole, whole[: len(whole) // 2], whole.replace(b"okens", b"okenz"), SECRET_TEXT.encode()):
            for token in (TOKEN, ACME_TOKEN, SECRET_TEXT):
                answers.append(listening.post(path_of(teller.source), sent, token))
        assert {answer.status for answer in answers} > {200, 401}
        said = capfd.readouterr()
        metrics = listening.ask("GET", "/metrics").body.decode()
        everything = [repr(answers), repr(listening.kafka.records), caplog.text, said.out, said.err, metrics]
        assert all(SECRET_TEXT not in text for text in everything)


def test_a_source_that_there_is_not_is_not_echoed(listening: Listening) -> None:
    answer = listening.post(f"/v1/usage/{SECRET_TEXT}", b"{}")
    assert (answer.status, answer.json) == (404, {"detail": "no such source"})


def test_metrics_say_who_sent_how_much(listening: Listening) -> None:
    listening.post("/v1/usage/native", body([event(1), event(2, ts=-1)]))
    listening.post("/v1/usage/native", body(event()), "nobody's")
    shown = listening.ask("GET", "/metrics").body.decode()
    for line in (
        'burnguard_intake_calls_total{producer="gateway",source="native"}',
        'burnguard_intake_refused_total{producer="gateway",source="native"}',
        'burnguard_intake_answers_total{status="401"}',
    ):
        assert line in shown
    assert "tenant" not in shown


def test_the_description_holds_against_the_running_intake() -> None:
    """No 500, every answer is one that is described, and without a token nothing is taken."""
    with intake(body_limit=1 << 16) as running:
        api = schemathesis.openapi.from_url("http://{}:{}/openapi.json".format(*running.address))
        for path in ("/v1/usage/native", "/v1/usage/{source}", "/v1/traces", "/health", "/ready", "/metrics"):

            @given(case=api[path]["get" if path.count("/") == 1 else "post"].as_strategy())
            @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            def holds(case: schemathesis.Case[Any]) -> None:
                case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS)

            holds()


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        (None, "usage: missing: burnguard topics init"),
        (Topic(1, 1, allowed=frozenset({"READ"})), "usage: needs Write: kafka-acls.sh"),
        (
            Topic(1, 1, {"max.message.bytes": "1000"}),
            "usage: max.message.bytes is 1000: batches may have 1048576: kafka-configs.sh",
        ),
    ],
)
def test_topics_that_cannot_be_written_are_said_before_anything_is_taken(topic: Topic | None, said: str) -> None:
    there = {"burnguard.quarantine": Topic(1, 1)} | ({} if topic is None else {"usage": topic})
    found = list(hindrances(KAFKA, Cluster(1, None, there, missing=frozenset({"usage"} - set(there)))))
    assert len(found) == 1
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --tokens FILE, to listen, or --from-topic TOPIC --as SOURCE"),
        (("--from-topic", "traces"), "either --tokens FILE"),
        (("--from-topic", "burnguard.signals", "--as", "bifrost"), "it is a topic of ours"),
        (("--tokens", "tokens.yaml"), "tokens.yaml:2: [0].token_sha256: "),
    ],
)
def test_what_is_wrong_with_the_command_is_said(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BURNGUARD_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    (tmp_path / "tokens.yaml").write_text(f"- name: litellm\n  token_sha256: {TOKEN}\n")
    result = CliRunner().invoke(main, ["intake", *arguments])
    assert result.exit_code != 0
    assert said in result.output


def test_two_producers_cannot_share_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNGUARD_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps([{"name": name, "token_sha256": hashed(TOKEN)} for name in "ab"]))
    result = CliRunner().invoke(main, ["intake", "--tokens", str(tokens)])
    assert "two producers have the same token_sha256" in result.output
