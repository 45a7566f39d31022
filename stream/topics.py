"""Our topics: what they must be, making them (`topics init`), and looking at what there is (for stream/problems.py)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import CoordinatorNotAvailableError, GroupAuthorizationFailedError, for_code

from stream.mend import grant, grow
from stream.reach import admin
from stream.settings import KafkaSettings

UNKNOWN, DENIED, THERE = 3, 29, 36
"""Kafka's error codes: no such topic, no right to it, topic already there."""
DAY_MS = 86_400_000
LARGEST = 1 << 20
"""Checkpoint chunks and pulses stay below it."""
CONSUMER_GROUP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster has it; `config` is empty where we may not read it, `allowed` None where it does not say."""

    partitions: int
    replicas: int
    config: dict[str, str] = field(default_factory=dict)
    allowed: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What `problems` judges. `missing` topics may be hidden from us (`denied`) instead; groups: what we may do with them."""

    brokers: int
    offsets_retention_minutes: int | None
    topics: dict[str, Topic]
    missing: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    groups: dict[str, frozenset[str] | None] = field(default_factory=dict)


def settings_of(settings: KafkaSettings) -> dict[str, dict[str, str]]:
    """What must be so for each topic."""
    always = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete"}
    kept = {"retention.ms": "-1", "retention.bytes": "-1"}
    return {
        settings.usage_topic: always,
        settings.signals_topic: always,
        settings.state_topic: always | kept,
        settings.quarantine_topic: {"cleanup.policy": "delete"},
    }


def rights(settings: KafkaSettings, role: str) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """What a role must be allowed on topics and on groups."""
    if role == "worker":
        topics: dict[str, tuple[str, ...]] = {
            settings.usage_topic: ("READ",),
            settings.signals_topic: ("WRITE",),
            settings.state_topic: ("READ", "WRITE", "DELETE"),
            settings.quarantine_topic: ("WRITE",),
        }
        return topics, {settings.group: ("READ",)}
    if role == "responder":
        return {settings.signals_topic: ("READ",)}, {settings.responder_group: ("READ",)}
    if role == "intake":
        return {settings.usage_topic: ("WRITE",), settings.quarantine_topic: ("WRITE",)}, {}
    return {settings.usage_topic: ("WRITE",)}, {}


ROLES = ("worker", "responder", "emit", "intake")


def init(settings: KafkaSettings, partitions: int | None, replication: int | None) -> tuple[list[str], bool]:
    """Makes the topics that are missing, changes none: a line for each topic, and whether all are there now.

    Without `partitions` usage, state and quarantine get as many as the first of them that exists, else 12.
    """
    with admin(settings) as kafka:
        there = {t["name"]: t for t in kafka.describe_topics(list(settings_of(settings)))}
        existing = next(
            (len(there[n]["partitions"]) for n in (settings.usage_topic, settings.state_topic) if not there[n]["error_code"]),
            None,
        )
        if partitions is not None and existing is not None and partitions != existing:
            return [f"refused: --partitions {partitions}, but there are {existing}. {grow(settings, partitions)}"], False
        brokers = len(kafka.describe_cluster()["brokers"])
        made = _creations(settings, partitions or existing or 12, replication or min(3, brokers))
        todo = {name: made[name] for name in made if there[name]["error_code"]}
        said = [f"{name}: already there, left as it is" for name in made if name not in todo]
        answers = kafka.create_topics(todo, raise_errors=False)["topics"] if todo else []
        for answer in answers:
            said.append(f"{answer['name']}: {_outcome(settings, answer, todo[answer['name']])}")
        fresh = [answer["name"] for answer in answers if answer["error_code"] == 0]
        if fresh:
            kafka.wait_for_topics(fresh)
    return said, all(answer["error_code"] in (0, THERE) for answer in answers)


def _creations(settings: KafkaSettings, partitions: int, replication: int) -> dict[str, dict[str, Any]]:
    fitting = {"min.insync.replicas": "2"} if replication >= 3 else {}
    extra = {
        settings.signals_topic: {"retention.ms": str(7 * DAY_MS)},
        settings.state_topic: {"max.message.bytes": str(LARGEST + 12), "segment.bytes": str(128 << 20)},
        settings.quarantine_topic: {"retention.ms": str(7 * DAY_MS)},
    }
    return {
        name: {
            "num_partitions": 1 if name == settings.signals_topic else partitions,
            "replication_factor": replication,
            "configs": config | extra.get(name, {}) | fitting,
        }
        for name, config in settings_of(settings).items()
    }


def _outcome(settings: KafkaSettings, answer: dict[str, Any], asked: dict[str, Any]) -> str:
    if answer["error_code"] == 0:
        count, config = asked["num_partitions"], ", ".join(f"{k}={v}" for k, v in asked["configs"].items())
        return f"created, {count} partition{'s' * (count > 1)}, replication {asked['replication_factor']}, {config}"
    if answer["error_code"] == THERE:
        return "already there, left as it is"
    if answer["error_code"] == DENIED:
        return f"not created: {grant(settings, 'CREATE', 'topic', answer['name'])}"
    return f"not created: {answer['error_message'] or for_code(answer['error_code']).__name__}"


def look(settings: KafkaSettings) -> Cluster:
    """The cluster as it is. Raises Unreachable, SettingsError."""
    with admin(settings) as kafka:
        described = kafka.describe_topics(list(settings_of(settings)))
        named = {code: frozenset(t["name"] for t in described if t["error_code"] == code) for code in (0, UNKNOWN, DENIED)}
        for topic in described:
            if topic["error_code"] not in named:
                raise for_code(topic["error_code"])(topic["name"])
        brokers = [str(broker["broker_id"]) for broker in kafka.describe_cluster()["brokers"]]
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in named[0]]
        resources += [ConfigResource(ConfigResourceType.BROKER, broker) for broker in brokers]
        configs = kafka.describe_configs(resources, config_filter="all")
        retentions = [c.get("offsets.retention.minutes") for c in configs["broker"].values()]
        topics = {
            t["name"]: Topic(
                partitions=len(t["partitions"]),
                replicas=min(len(p["replica_nodes"]) for p in t["partitions"]),
                config={name: entry["value"] for name, entry in configs["topic"][t["name"]].items()},
                allowed=None if t["authorized_operations"] is None else frozenset(t["authorized_operations"]),
            )
            for t in described
            if t["error_code"] == 0
        }
        return Cluster(
            brokers=len(brokers),
            offsets_retention_minutes=min((int(found["value"]) for found in retentions if found), default=None),
            topics=topics,
            missing=named[UNKNOWN],
            denied=named[DENIED],
            groups={group: _group_rights(kafka, group) for group in (settings.group, settings.responder_group)},
        )


def unreadable(settings: KafkaSettings, name: str) -> str | None:
    """Why a topic of others cannot be read, None where it can. Raises Unreachable, SettingsError."""
    with admin(settings) as kafka:
        (topic,) = kafka.describe_topics([name])
    if topic["error_code"] == UNKNOWN:
        return f"{name}: there is no such topic"
    if topic["error_code"] == DENIED or "READ" not in (topic["authorized_operations"] or ("READ",)):
        return f"{name}: {grant(settings, 'READ', 'topic', name)}"
    return None


def _group_rights(kafka: KafkaAdminClient, group: str) -> frozenset[str] | None:
    """None where the group does not exist yet: then Kafka says only whether we may see it."""
    deadline = time.monotonic() + CONSUMER_GROUP_WAIT_S
    while True:
        try:
            allowed = kafka.describe_groups([group], include_authorized_operations=True)[group]["authorized_operations"]
            return None if allowed is None else frozenset(allowed)
        except GroupAuthorizationFailedError:
            return frozenset()
        except CoordinatorNotAvailableError:  # the first question about any group makes the cluster create its topic
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
