"""A client for programs that make calls: usage events into the topic `usage`, without ever waiting for Kafka."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from uuid import uuid4
from weakref import WeakSet

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from pydantic import ValidationError

from schemas.adapters.providers import ANSWERS
from schemas.adapters.who import SourceName, Who
from schemas.call import Refused, refusal_of
from schemas.usage import UsageEvent
from stream.reach import PATIENCE_MS, Unreachable, brief, hang_up, knock, obstacle
from stream.settings import KafkaSettings

log = logging.getLogger("burnguard")

EVERY_S = 0.05
"""How often what was recorded is handed to Kafka's client."""
AGAIN_S = 5.0
"""Between two attempts to reach the brokers."""
SAID_EVERY_S = 60.0
A_CALL = 2_000
"""Bytes of memory that a waiting call takes besides its own."""
FOR_EVER_MS = 2**31 - 1
HANGS_UP_WITHIN_S = 1.0
FIELDS = UsageEvent.model_fields.keys()

Heard = Callable[[str], None]
"""What became of a call: "" when it is acknowledged, else why it never will be."""


class Link(Protocol):
    """A way to the brokers."""

    def send(self, tenant: bytes, line: bytes, heard: Heard) -> None:
        """May take its time; `heard` is called later, in any thread. Raises Unreachable where this is to be tried again."""

    def close(self) -> None:
        """At once."""

    def forget(self) -> None:
        """In a child of the process that made it: it is the parent's."""


@dataclass(frozen=True, slots=True)
class Account:
    """recorded = delivered + refused + dropped + failed + waiting. After `close` those that wait are not delivered, as far as
    anybody heard: they may be in the topic.
    """

    recorded: int = 0
    delivered: int = 0
    refused: int = 0
    """No usage events: see docs/usage_event.schema.json."""
    dropped: int = 0
    """There was no room, or it was closed."""
    failed: int = 0
    """The brokers do not take them."""
    waiting: int = 0

    @property
    def lost(self) -> int:
        return self.refused + self.dropped + self.failed


class Producer:
    """Takes calls from any thread and sends them from one of its own; nothing about Kafka raises or waits in `record`.

    What waits for the brokers is kept until they come back, up to `buffer_mib` of memory; then new calls are dropped. What
    was lost is in `account` and, at most once a minute, a warning of the logger `burnguard`. In a forked child it begins
    anew: what waits is the parent's. At the interpreter's exit it closes itself. Not for use in signal handlers.

    Raises SettingsError where BURNGUARD_KAFKA_... are missing or wrong.
    """

    def __init__(
        self,
        settings: KafkaSettings | None = None,
        buffer_mib: int = 16,
        connect: Callable[[KafkaSettings], Link] | None = None,
    ) -> None:
        self._settings = settings or KafkaSettings()
        self._settings.client()
        self._room = buffer_mib << 20
        self._connect = connect or Connection
        self._begin()
        _PRODUCERS.add(self)
        atexit.register(self.close)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._held = 0
        self._recorded = self._delivered = self._refused = self._dropped = self._failed = 0
        self._reasons: dict[str, str] = {}
        self._said, self._say_at = 0, 0.0
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._try_at = 0.0
        self._over = False

    def record(self, **fields: Any) -> bool:
        """Takes a call, fields as in the usage event; whether it was taken. None is absent.

        `event_id` is made and `ts` is now where they are not given: give an id where you may record the same call twice.
        Raises ValueError for a field that the contract does not know, nothing else.
        """
        _known(fields)
        told = {name: value for name, value in fields.items() if value is not None}
        told.setdefault("ts", time.time())
        if "event_id" not in told:
            told["event_id"] = str(uuid4())
        try:
            event = UsageEvent.model_validate(told)
        except ValidationError as error:
            return self._refuse(refusal_of(error))
        return self._take(event.tenant.encode(), event.model_dump_json(exclude_none=True).encode())

    def record_answer(
        self, source: SourceName, answer: bytes | Mapping[str, Any], *, tenant: str, key_id: str, **fields: Any
    ) -> bool:
        """Records the call that a provider answered, as `record` does, from the answer's body: its bytes, or the dict of it.

        `source` is openai, anthropic, gemini or bedrock. `fields` are added, and count before what the answer says. Raises
        ValueError for another source or an unknown field, nothing else.
        """
        if source not in ANSWERS:
            raise ValueError(f"{source}: answers are known of {', '.join(ANSWERS)}")
        _known(fields)
        try:
            body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
            who = Who(tenant=tenant, key_id=key_id, model=fields.get("model"))
        except ValidationError as error:
            return self._refuse(refusal_of(error))
        except (TypeError, ValueError, RecursionError) as error:
            return self._refuse(Refused(f"no JSON: {type(error).__name__}"))
        reading = ANSWERS[source](body, who, time.time())
        if len(reading.events) != 1:
            first = reading.refused[0] if reading.refused else None
            return self._refuse(Refused(first.reason, first.field) if first else Refused("not one answer"))
        return self.record(**(reading.events[0] | {name: value for name, value in fields.items() if value is not None}))

    @property
    def account(self) -> Account:
        """What became of all calls so far."""
        with self._lock:
            known = self._recorded, self._delivered, self._refused, self._dropped, self._failed
        return Account(*known, waiting=known[0] - sum(known[1:]))

    def close(self, timeout_s: float = 5.0) -> Account:
        """Delivers what waits, for at most so long (and a second to hang up), and says what became of all calls."""
        with self._lock:
            self._deadline = min(self._deadline, time.monotonic() + timeout_s)
            self._closing.set()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s + HANGS_UP_WITHIN_S)
        with self._lock:
            self._over = True
            self._thread = None
        atexit.unregister(self.close)
        if thread is not None:
            self._say(last=True)
        return self.account

    def _refuse(self, refused: Refused) -> bool:
        with self._lock:
            self._recorded += 1
            self._refused += 1
            self._reasons["refused"] = f"{refused.field}: {refused.reason}" if refused.field else refused.reason
            self._ensure_thread()
        return False

    def _take(self, tenant: bytes, line: bytes) -> bool:
        size = A_CALL + len(tenant) + len(line)
        with self._lock:
            self._recorded += 1
            room = self._held + size <= self._room and not self._closing.is_set()
            if room:
                self._held += size
                self._queue.append((tenant, line))
            else:
                self._dropped += 1
            self._ensure_thread()
        return room

    def _ensure_thread(self) -> None:
        """Begins to send at the first call, so that a server may make this before it forks."""
        if self._thread is None and not self._closing.is_set():
            thread = threading.Thread(target=self._work, name="burnguard-producer", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads just now, or the interpreter is ending
                self._reasons["away"] = str(error)
            else:
                self._thread = thread

    def _work(self) -> None:
        while True:
            if self._closing.wait(EVERY_S):
                time.sleep(EVERY_S / 10)
            if time.monotonic() < self._deadline:
                self._send()
            if self._closing.is_set() and (not self.account.waiting or time.monotonic() >= self._deadline):
                break
            self._say()
        self._over = True
        if self._link is not None:
            self._link.close()

    def _send(self) -> None:
        if not self._queue or time.monotonic() < self._try_at:
            return
        try:
            if self._link is None:
                self._link = self._connect(self._settings)
                atexit.unregister(self.close)  # what was registered last runs first: we end before Kafka's client does
                atexit.register(self.close)
            while self._queue:
                tenant, line = self._queue[0]
                self._link.send(tenant, line, partial(self._heard, A_CALL + len(tenant) + len(line)))
                self._queue.popleft()
            with self._lock:
                self._reasons.pop("away", None)
        except Exception as error:  # whatever it is, it must not end the thread: it is said, and tried again
            with self._lock:
                self._reasons["away"] = str(error) or type(error).__name__
            self._try_at = time.monotonic() + AGAIN_S

    def _heard(self, size: int, failure: str) -> None:
        with self._lock:
            if self._over:
                return
            self._held -= size
            if failure:
                self._failed += 1
                self._reasons["failed"] = failure
            else:
                self._delivered += 1

    def _say(self, last: bool = False) -> None:
        """A warning of what was lost since the one before, or waits in vain."""
        account, away = self.account, self._reasons.get("away")
        told = account.lost + (account.waiting if away or last else 0)
        news = told != self._said or (last and account.waiting)
        if not news or (time.monotonic() < self._say_at and not last):
            return
        self._said, self._say_at = told, time.monotonic() + SAID_EVERY_S
        with self._lock:
            why = "; ".join(f"{name}: {reason}" for name, reason in self._reasons.items())
        log.warning(
            "of %d calls recorded, refused %d, dropped %d, failed %d, %s %d%s",
            account.recorded,
            account.refused,
            account.dropped,
            account.failed,
            "not delivered" if last else "waiting",
            account.waiting,
            f" ({why})" if why else "",
        )


def _known(fields: Mapping[str, Any]) -> None:
    if not fields.keys() <= FIELDS:
        raise ValueError(f"no fields of a usage event: {', '.join(sorted(fields.keys() - FIELDS))}")


class Connection:
    """kafka-python's producer. Not idempotent: after one failure that would deliver no more, and repeats are known by id.

    Raises Unreachable.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        server, closed = knock(settings)  # a KafkaProducer that finds nobody leaves its sockets open
        if not server:
            raise Unreachable(closed)
        self._topic = settings.usage_topic
        try:
            self._kafka = KafkaProducer(
                **settings.client(),
                acks="all",
                enable_idempotence=False,
                compression_type="lz4",
                batch_size=256 << 10,
                linger_ms=20,
                bootstrap_timeout_ms=PATIENCE_MS,
                max_block_ms=PATIENCE_MS,
                request_timeout_ms=10_000,
                delivery_timeout_ms=FOR_EVER_MS,
                allow_auto_create_topics=False,
            )
        except KafkaError as error:
            raise Unreachable(obstacle(settings)) from error
        try:
            self._kafka.partitions_for(self._topic)
        except KafkaError as error:
            hang_up(self._kafka, HANGS_UP_WITHIN_S)
            raise Unreachable(f"{self._topic}: {brief(error)}: is it there, and may you write it?") from error

    def send(self, tenant: bytes, line: bytes, heard: Heard) -> None:
        try:
            future = self._kafka.send(self._topic, line, tenant)
        except KafkaTimeoutError as error:
            raise Unreachable(f"{self._topic}: {brief(error)}") from error
        future.add_callback(lambda _: heard(""))
        future.add_errback(lambda error: heard(brief(error)))

    def close(self) -> None:
        hang_up(self._kafka, HANGS_UP_WITHIN_S)

    def forget(self) -> None:
        # its close(), also at exit and when it is deleted, would wait for threads that are not here
        self._kafka._closed = True


_PRODUCERS: WeakSet[Producer] = WeakSet()


def _in_child() -> None:
    for producer in [*_PRODUCERS]:
        link, closed = producer._link, producer._closing.is_set()
        if link is not None:
            link.forget()
        producer._begin()
        if closed:
            producer._closing.set()


os.register_at_fork(after_in_child=_in_child)
