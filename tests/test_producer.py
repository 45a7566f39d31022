"""The client for programs: what is recorded arrives, what does not is counted and said, and no caller hears of Kafka."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.kafka.broker import Broker
from schemas.call import convert
from schemas.prompt import fingerprint, simhash
from stream import producer as module
from stream.emit import partition_of
from stream.producer import A_CALL, FIELDS, Account, Heard, Producer
from stream.reach import Unreachable
from stream.settings import KafkaSettings
from tests.conftest import Reachable
from tests.test_emit import content, create, emit

NOWHERE = KafkaSettings(bootstrap="127.0.0.1:1")
CALL: dict[str, Any] = {"tenant": "acme", "key_id": "k", "model": "gpt-4o", "input_tokens": 10, "output_tokens": 2}


class Brokers:
    """Kafka in memory: `away` it takes nothing; `deaf` it takes all and answers nothing; `strict` it refuses all for ever."""

    def __init__(self) -> None:
        self.away = self.deaf = self.strict = False
        self.records: list[tuple[bytes, bytes]] = []
        self.links = self.closed = 0

    def connect(self, settings: KafkaSettings) -> Brokers:
        if self.away:
            raise Unreachable("nobody there")
        self.links += 1
        return self

    def send(self, tenant: bytes, line: bytes, heard: Heard) -> None:
        if self.away:
            raise Unreachable("nobody there")
        if not self.strict:
            self.records.append((tenant, line))
        if not self.deaf:
            heard("MessageSizeTooLargeError" if self.strict else "")

    def close(self) -> None:
        self.closed += 1

    def forget(self) -> None:
        self.closed += 1


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    monkeypatch.setattr(module, "AGAIN_S", 0.1)
    return Brokers()


NewProducer = Callable[..., Producer]


@pytest.fixture
def new_producer(brokers: Brokers) -> Iterator[NewProducer]:
    made: list[Producer] = []

    def make(buffer_mib: int = 16, connect: Callable[[KafkaSettings], Brokers] = brokers.connect) -> Producer:
        made.append(Producer(NOWHERE, buffer_mib, connect))
        return made[-1]

    yield make
    for producer in made:
        producer.close(0)


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "burnguard"]


def test_what_is_recorded_is_delivered_as_the_contract_wants_it_and_keyed_by_tenant(
    brokers: Brokers, new_producer: NewProducer
) -> None:
    producer, began = new_producer(), time.time()
    assert producer.record(**CALL, user_agent=None, ts=5.0, event_id="mine", feature="søk")
    assert producer.record(**CALL | {"tenant": "müller"}) and producer.record(**CALL)
    assert producer.close() == Account(recorded=3, delivered=3)
    assert [tenant.decode() for tenant, _ in brokers.records] == ["acme", "müller", "acme"]
    first, second, third = (json.loads(line) for _, line in brokers.records)
    assert first == CALL | {"ts": 5.0, "event_id": "mine", "feature": "søk"}
    assert began <= second["ts"] <= time.time()
    assert re.fullmatch(r"[0-9a-f-]{36}", second["event_id"]) and second["event_id"] != third["event_id"]


def test_a_field_that_the_contract_does_not_know_is_a_mistake_of_the_program(new_producer: NewProducer) -> None:
    producer = new_producer()
    with pytest.raises(ValueError, match="no fields of a usage event: promt, tokens"):
        producer.record(**CALL, promt="x", tokens=1)
    with pytest.raises(ValueError, match="answers are known of openai, anthropic, gemini, bedrock"):
        producer.record_answer("mistral", {}, tenant="a", key_id="k")  # type: ignore[arg-type]
    assert producer.account == Account()


def test_a_bad_call_is_counted_and_said_without_its_content(
    new_producer: NewProducer, brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    producer = new_producer()
    assert not producer.record(**CALL | {"tenant": "secret\n"})
    assert not producer.record(**CALL | {"input_tokens": "secret"})
    assert not producer.record(event_id="secret")
    assert not producer.record(**CALL, cached_input_tokens=11)
    assert producer.close() == Account(recorded=4, refused=4)
    assert brokers.records == []
    assert "refused 4" in warnings(caplog)[-1] and "cached_input_tokens + cache_write_tokens exceed" in warnings(caplog)[-1]
    assert "secret" not in caplog.text


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text(), max_size=2)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), anything), st.booleans())
def test_nothing_that_a_field_may_hold_is_raised_or_sent_that_the_worker_refuses(fields: dict[str, Any], whole: bool) -> None:
    brokers = Brokers()
    producer = Producer(NOWHERE, connect=brokers.connect)
    taken = producer.record(**(CALL | fields if whole else fields))
    producer.record_answer("anthropic", {"type": "message", "usage": fields}, tenant=fields.get("tenant", ""), key_id="k")
    account = producer.close()
    assert account.recorded == 2 == account.delivered + account.refused
    assert taken == (len(brokers.records) > 0)
    for tenant, line in brokers.records:
        assert convert(json.loads(line)).tenant.encode() == tenant


def test_brokers_that_are_away_at_first_or_later_delay_calls_and_lose_none(
    brokers: Brokers, new_producer: NewProducer, caplog: pytest.LogCaptureFixture
) -> None:
    brokers.away = True
    producer = new_producer()
    for n in range(100):
        assert producer.record(**CALL, event_id=f"first {n}")
    until(lambda: warnings(caplog))
    assert "waiting 100 (away: nobody there)" in warnings(caplog)[0]
    brokers.away = False
    until(lambda: producer.account.delivered == 100)
    brokers.away = True
    assert producer.record(**CALL, event_id="later")
    time.sleep(0.2)
    assert producer.account.waiting == 1
    brokers.away = False
    assert producer.close() == Account(recorded=101, delivered=101)
    assert [json.loads(line)["event_id"] for _, line in brokers.records] == [*(f"first {n}" for n in range(100)), "later"]


@pytest.mark.parametrize("bounded", [True, False])
def test_memory_is_bounded_and_what_found_no_room_is_counted(
    brokers: Brokers, new_producer: NewProducer, caplog: pytest.LogCaptureFixture, bounded: bool
) -> None:
    brokers.away = True
    producer = new_producer(buffer_mib=1 if bounded else 1000)
    taken = [producer.record(**CALL) for _ in range(1000)]
    room = (1 << 20) // A_CALL
    if bounded:
        assert 0 < sum(taken) < room
        assert taken == sorted(taken, reverse=True)
    else:
        assert sum(taken) > room
    assert producer.account.dropped == 1000 - sum(taken)
    brokers.away = False
    assert producer.close() == Account(recorded=1000, delivered=sum(taken), dropped=1000 - sum(taken))
    assert len(brokers.records) == sum(taken)
    assert bool(warnings(caplog)) or not bounded


def test_room_comes_back_when_calls_are_answered_for_and_not_before(brokers: Brokers, new_producer: NewProducer) -> None:
    brokers.deaf = True
    producer = new_producer(buffer_mib=1)
    while producer.record(**CALL):
        pass
    until(lambda: len(brokers.records) == producer.account.waiting)
    assert not producer.record(**CALL)
    assert producer.close(0.1).waiting == len(brokers.records)

    brokers.deaf = False
    other = new_producer(buffer_mib=1)
    while other.record(**CALL):
        pass
    until(lambda: other.account.waiting == 0)
    assert other.record(**CALL)


def test_what_brokers_refuse_for_good_is_counted_as_failed_and_said(
    brokers: Brokers, new_producer: NewProducer, caplog: pytest.LogCaptureFixture
) -> None:
    brokers.strict = True
    producer = new_producer()
    producer.record(**CALL)
    assert producer.close() == Account(recorded=1, failed=1)
    assert "failed 1, not delivered 0 (failed: MessageSizeTooLargeError)" in warnings(caplog)[-1]


def test_closing_ends_in_time_and_says_what_was_not_delivered(
    brokers: Brokers, new_producer: NewProducer, caplog: pytest.LogCaptureFixture
) -> None:
    brokers.deaf = True
    producer, began = new_producer(), time.monotonic()
    for _ in range(7):
        producer.record(**CALL)
    account = producer.close(0.3)
    assert time.monotonic() - began < 1.5
    assert account == Account(recorded=7, waiting=7) == producer.close()
    assert "not delivered 7" in warnings(caplog)[-1]
    assert brokers.closed == 1
    assert not producer.record(**CALL)
    assert producer.account.dropped == 1


@pytest.mark.parametrize("every", [60.0, 0.0])
def test_it_is_said_at_most_once_a_minute(
    new_producer: NewProducer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, every: float
) -> None:
    monkeypatch.setattr(module, "SAID_EVERY_S", every)
    producer = new_producer()
    for _ in range(10):
        producer.record()
        time.sleep(2 * module.EVERY_S)
    assert len(warnings(caplog)) == 1 if every else len(warnings(caplog)) > 3
    producer.close()
    assert "refused 10" in warnings(caplog)[-1]


def test_nobody_who_records_waits_where_connecting_hangs(new_producer: NewProducer) -> None:
    go = threading.Event()

    def hang(settings: KafkaSettings) -> Brokers:
        go.wait(30)
        raise Unreachable("at last")

    producer = new_producer(connect=hang)
    producer.record(**CALL)
    time.sleep(2 * module.EVERY_S)
    began = time.monotonic()
    for _ in range(1000):
        producer.record(**CALL)
    assert producer.close(0.2).waiting == 1001
    assert time.monotonic() - began < 5
    go.set()


def test_many_threads_record_and_nothing_is_miscounted(brokers: Brokers, new_producer: NewProducer) -> None:
    producer = new_producer(buffer_mib=64)

    def work(who: int) -> None:
        for n in range(500):
            producer.record(**CALL, event_id=f"{who} {n}")
            producer.record()

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert producer.close() == Account(recorded=8000, delivered=4000, refused=4000)
    assert len({json.loads(line)["event_id"] for _, line in brokers.records}) == 4000
    assert brokers.links == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_anew_and_the_parent_goes_on(brokers: Brokers, new_producer: NewProducer) -> None:
    producer = new_producer()
    producer.record(**CALL, event_id="before")
    until(lambda: producer.account.delivered == 1)
    brokers.deaf = True
    producer.record(**CALL, event_id="waits")
    reader, writer = os.pipe()
    with producer._lock:  # held by the parent's own thread while it forks
        child = os.fork()
        if child == 0:
            brokers.deaf, brokers.records = False, []
            producer.record(**CALL, event_id="of the child")
            account = producer.close()
            ids = [json.loads(line)["event_id"] for _, line in brokers.records]
            os.write(writer, json.dumps([ids, account.recorded, account.delivered, brokers.links]).encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reader, 1000)) == [["of the child"], 1, 1, 2]
    assert producer.close(0.2) == Account(recorded=2, delivered=1, waiting=1)


OPENAI = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-2024-08-06",
    "choices": [{"message": {"role": "assistant", "content": "secret answer"}}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 64}},
}


@pytest.mark.parametrize("body", [OPENAI, json.dumps(OPENAI).encode()])
def test_an_answer_of_a_provider_is_a_call_without_what_was_said(
    brokers: Brokers, new_producer: NewProducer, body: bytes | dict[str, Any]
) -> None:
    producer = new_producer()
    assert producer.record_answer("openai", body, tenant="acme", key_id="k", feature="chat", latency_ms=12.5, user_id=None)
    assert not producer.record_answer("openai", {"error": "secret"}, tenant="acme", key_id="k")
    assert not producer.record_answer("openai", {"x": object()}, tenant="acme", key_id="k")
    assert not producer.record_answer("openai", body, tenant="", key_id="k")
    assert producer.close() == Account(recorded=4, delivered=1, refused=3)
    (line,) = (line for _, line in brokers.records)
    event = json.loads(line)
    assert event.pop("ts") == pytest.approx(time.time(), abs=60)
    assert event == {
        **{"event_id": "chatcmpl-1", "request_id": "chatcmpl-1", "tenant": "acme", "key_id": "k", "provider": "openai"},
        **{"model": "gpt-4o-2024-08-06", "input_tokens": 100, "output_tokens": 5, "cached_input_tokens": 64},
        **{"feature": "chat", "latency_ms": 12.5},
    }


def example() -> str:
    (found,) = re.findall(r"```python\n(.*?)```", Path("docs/producers.md").read_text(), re.DOTALL)
    return str(found)


ASK = f"ask = lambda messages: {OPENAI!r}\n"


def run(program: str, bootstrap: str, topic: str = "usage", **given: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BURNGUARD_KAFKA_BOOTSTRAP": bootstrap, "BURNGUARD_KAFKA_USAGE_TOPIC": topic}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, **given)


def test_a_program_without_brokers_works_ends_in_time_and_says_what_was_lost() -> None:
    began = time.monotonic()
    done = run(ASK + example(), "127.0.0.1:1", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused 0, dropped 0, failed 0, not delivered 1 (away: 127.0.0.1:1: cannot connect" in done.stderr
    assert time.monotonic() - began < 40  # 5 of them wait for brokers, the rest are imports on a busy machine


def test_it_comes_without_compilers_and_without_what_workers_need() -> None:
    done = run("import sys, stream.producer, schemas.prompt; print(*sys.modules)", "x:1")
    assert {"kafka", "stream.producer"} <= {*done.stdout.split()}
    assert not {"numba", "llvmlite", "faust", "aiokafka", "aiohttp", "sqlalchemy"} & {*done.stdout.split()}


async def test_the_example_and_a_server_that_forks_and_exits_lose_nothing_and_tenants_are_where_emit_puts_them(
    broker: Reachable, topic_prefix: str, tmp_path: Path
) -> None:
    create(broker.bootstrap, topic_prefix, 12)
    forks = """
import os
from stream.producer import Producer
producer = Producer()
call = dict(key_id="k", model="gpt-4o", input_tokens=1, output_tokens=1)
for n in range(300):
    producer.record(tenant=f"tenant-{n % 100}", event_id=f"parent {n}", **call)
while producer.account.waiting:
    pass
child = os.fork()
for n in range(300):
    producer.record(tenant=f"tenant-{n % 100}", event_id=f"{'parent again' if child else 'child'} {n}", **call)
if child:
    os.waitpid(child, 0)
"""
    done = run(forks, broker.bootstrap, topic_prefix, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(ASK + example(), broker.bootstrap, topic_prefix, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found = await content(broker.bootstrap, topic_prefix)
    ids = sorted(json.loads(value)["event_id"] for _, _, value in found)
    assert ids == sorted(["chatcmpl-1", *(f"{who} {n}" for who in ("parent", "parent again", "child") for n in range(300))])
    assert all(partition == partition_of(key.encode(), 12) for partition, key, _ in found)
    (tmp_path / "calls").write_bytes(b"\n".join(json.dumps({"tenant": f"tenant-{n}"}).encode() for n in range(100)))
    assert emit(broker.bootstrap, topic_prefix, tmp_path / "calls").exit_code == 0
    homes = {(key, partition) for partition, key, _ in await content(broker.bootstrap, topic_prefix)}
    assert len(homes) == 100 + 1
    (asked,) = (json.loads(value) for _, _, value in found if b"chatcmpl-1" in value)
    messages = [{"role": "user", "content": "What does this cost?"}]
    assert (asked["prompt_fingerprint"], asked["prompt_simhash"]) == (
        fingerprint(messages, "a salt of our organisation"),
        simhash(messages, "a salt of our organisation"),
    )


OUTAGE = """
import json, time
from stream.producer import Producer
producer = Producer(buffer_mib=2)
call = dict(tenant="acme", key_id="k", model="gpt-4o", input_tokens=1, output_tokens=1)
producer.record(event_id="before", **call)
while producer.account.waiting:
    time.sleep(0.01)
print("ready", flush=True)
input()
slowest, taken = 0.0, ["before"]
for n in range(3000):
    began = time.perf_counter()
    if producer.record(event_id=f"meanwhile {n}", **call):
        taken.append(f"meanwhile {n}")
    slowest = max(slowest, time.perf_counter() - began)
time.sleep(2)
account = producer.account
print(json.dumps([slowest, taken, account.dropped, account.waiting]), flush=True)
input()
account = producer.close(60)
print(json.dumps([account.delivered, account.dropped, account.waiting]))
"""


async def test_a_broker_that_stops_costs_nobody_time_drops_what_finds_no_room_and_gets_the_rest_when_it_is_back(
    own_broker: Broker, topic_prefix: str
) -> None:
    create(own_broker.bootstrap, topic_prefix, 3)
    environment = {"BURNGUARD_KAFKA_BOOTSTRAP": own_broker.bootstrap, "BURNGUARD_KAFKA_USAGE_TOPIC": topic_prefix}
    with subprocess.Popen(
        [sys.executable, "-c", OUTAGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        own_broker.kill()
        program.stdin.write("\n")
        program.stdin.flush()
        slowest, taken, dropped, waiting = json.loads(program.stdout.readline())
        own_broker.start()
        delivered, dropped_in_all, left = json.loads(program.communicate("\n", timeout=90)[0])
    assert slowest < 1
    assert 100 < len(taken) < 2000
    assert (dropped, waiting) == (3001 - len(taken), len(taken) - 1)
    assert (delivered, dropped_in_all, left) == (len(taken), dropped, 0)
    ids = {json.loads(value)["event_id"] for _, _, value in await content(own_broker.bootstrap, topic_prefix)}
    assert ids == {*taken}
