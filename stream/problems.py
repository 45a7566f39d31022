"""What is wrong with the topics as they are, and what mends it: `topics check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stream.mend import alter, grant, grow, tool
from stream.settings import KafkaSettings
from stream.topics import LARGEST, Cluster, Topic, rights, settings_of

RETENTION_MINUTES = 10_080
CODECS = ("gzip", "snappy", "lz4", "zstd")
WHY = {
    "message.timestamp.type": "the broker's clock at the append is the clock of our windows",
    "cleanup.policy": "compaction drops records that are still needed",
    "retention.ms": "time would delete the checkpoint of a quiet partition",
    "retention.bytes": "size would delete checkpoints that are still pointed to",
}


def problems(settings: KafkaSettings, cluster: Cluster, roles: Sequence[str] = ("worker", "responder")) -> list[str]:
    """One line for each thing that is wrong: what it is, and what mends it."""
    shape = [*_shape(settings, cluster), *_safety(settings, cluster)]
    return [*_rights(settings, cluster, roles), *shape, *_settings(settings, cluster)]


def refusals(settings: KafkaSettings, cluster: Cluster) -> list[str]:
    """Of the problems those with which a worker must not start: it would count wrongly."""
    usage = {settings.usage_topic: {"message.timestamp.type": "LogAppendTime"}}
    return [*_shape(settings, cluster), *_differences(settings, cluster, usage)]


def hindrances(settings: KafkaSettings, cluster: Cluster) -> Iterator[str]:
    """Why an intake must not start: what it takes could not be delivered."""
    for name, needed in rights(settings, "intake")[0].items():
        topic = cluster.topics.get(name)
        if name in cluster.missing:
            yield _missing(name)
        elif topic is None:
            yield _unseen(settings, name)
        elif topic.allowed is not None and not set(needed) <= topic.allowed:
            yield f"{name}: {grant(settings, 'WRITE', 'topic', name)}"
        else:
            yield from _too_small(settings, name, topic, "batches may have")


def _missing(name: str) -> str:
    return f"{name}: missing: burnguard topics init"


def _unseen(settings: KafkaSettings, name: str) -> str:
    return f"{name}: not visible to us: {grant(settings, 'DESCRIBE', 'topic', name)}"


def _too_small(settings: KafkaSettings, name: str, topic: Topic, what: str) -> Iterator[str]:
    limit = int(topic.config.get("max.message.bytes", LARGEST))
    if limit < LARGEST:
        mend = alter(settings, name, "max.message.bytes", str(LARGEST + 12))
        yield f"{name}: max.message.bytes is {limit}: {what} {LARGEST}: {mend}"


def _rights(settings: KafkaSettings, cluster: Cluster, roles: Sequence[str]) -> Iterator[str]:
    for name in settings_of(settings):
        if name in cluster.denied:
            yield _unseen(settings, name)
        elif name in cluster.topics and not cluster.topics[name].config:
            yield f"{name}: its settings cannot be read: {grant(settings, 'DESCRIBE_CONFIGS', 'topic', name)}"
    for role in roles:
        topics, groups = rights(settings, role)
        for name, needed in topics.items():
            allowed = cluster.topics[name].allowed if name in cluster.topics else None
            for right in needed:
                if allowed is not None and right not in allowed:
                    yield f"{name}: the {role} {grant(settings, right, 'topic', name)}"
        for name, needed in groups.items():
            allowed = cluster.groups.get(name)
            for right in needed:
                if allowed is not None and right not in allowed:
                    yield f"group {name}: the {role} {grant(settings, right, 'group', name)}"


def _shape(settings: KafkaSettings, cluster: Cluster) -> Iterator[str]:
    for name in settings_of(settings):
        if name in cluster.missing:
            yield _missing(name)
    signals, usage = cluster.topics.get(settings.signals_topic), cluster.topics.get(settings.usage_topic)
    if signals is not None and signals.partitions != 1:
        yield (
            f"{settings.signals_topic}: {signals.partitions} partitions, must be 1 (one order of all signals). Kafka cannot "
            f"shrink a topic: stop the workers, let the responder read to the end, stop it, then "
            f"{tool(settings, 'kafka-topics')} --delete --topic {settings.signals_topic}, then burnguard topics init"
        )
    state, quarantine = cluster.topics.get(settings.state_topic), cluster.topics.get(settings.quarantine_topic)
    if usage is not None and state is not None and state.partitions != usage.partitions:
        yield (
            f"{settings.state_topic}: {state.partitions} partitions, but {settings.usage_topic} has {usage.partitions}. "
            f"{grow(settings, usage.partitions)}. (Before the first worker ever ran: delete {settings.state_topic}, "
            "then burnguard topics init)"
        )
    if usage is not None and quarantine is not None and quarantine.partitions < usage.partitions:
        yield (
            f"{settings.quarantine_topic}: {quarantine.partitions} partitions, but {settings.usage_topic} has "
            f"{usage.partitions}: {tool(settings, 'kafka-topics')} --alter --topic {settings.quarantine_topic} "
            f"--partitions {usage.partitions}"
        )


def _safety(settings: KafkaSettings, cluster: Cluster) -> Iterator[str]:
    for name, topic in cluster.topics.items():
        copies = min(3, cluster.brokers)
        if topic.replicas < copies:
            yield (
                f"{name}: replication {topic.replicas} on {cluster.brokers} brokers: a lost disk loses it. Raise it to "
                f"{copies} with {tool(settings, 'kafka-reassign-partitions')}, or while it is empty delete it and "
                f"burnguard topics init --replication {copies}"
            )
    minutes = cluster.offsets_retention_minutes
    if minutes is not None and minutes < RETENTION_MINUTES:
        yield (
            f"brokers: offsets.retention.minutes is {minutes}: workers stopped for longer lose position and state. "
            f"Set offsets.retention.minutes={RETENTION_MINUTES} or more in every server.properties and restart the brokers"
        )


def _settings(settings: KafkaSettings, cluster: Cluster) -> Iterator[str]:
    yield from _differences(settings, cluster, settings_of(settings))
    for name in settings_of(settings):
        topic = cluster.topics.get(name)
        if topic is None or not topic.config:
            continue
        codec = topic.config.get("compression.type", "producer")
        if codec not in ("producer", "uncompressed", *CODECS):
            said = f"compression.type is {codec}, which no worker reads ({', '.join(CODECS)})"
            yield f"{name}: {said}: {alter(settings, name, 'compression.type', 'producer')}"
        elif codec != "producer" and name == settings.usage_topic:
            said = f"compression.type is {codec}: the broker compresses every batch again"
            yield f"{name}: {said}: {alter(settings, name, 'compression.type', 'producer')}"
        if name in (settings.state_topic, settings.signals_topic):
            yield from _too_small(settings, name, topic, "checkpoints and pulses need")
        insync = int(topic.config.get("min.insync.replicas", 1))
        if topic.replicas >= 3 and insync < 2:
            said = f"min.insync.replicas is {insync}: what one broker alone has seen counts as safe"
            yield f"{name}: {said}: {alter(settings, name, 'min.insync.replicas', '2')}"
        elif insync > max(1, topic.replicas - 1):
            said = f"min.insync.replicas is {insync} of {topic.replicas}: one broker down stops all writes"
            yield f"{name}: {said}: {alter(settings, name, 'min.insync.replicas', str(max(1, topic.replicas - 1)))}"


def _differences(settings: KafkaSettings, cluster: Cluster, needed: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name, values in needed.items():
        config = cluster.topics[name].config if name in cluster.topics else {}
        for key, value in values.items():
            if config and config.get(key) != value:
                yield f"{name}: {key} is {config.get(key)}: {WHY[key]}: {alter(settings, name, key, value)}"
