"""The commands that mend a Kafka cluster, as an operator types them: Kafka's own tools, for the brokers we were given."""

from __future__ import annotations

from stream.settings import KafkaSettings


def grow(settings: KafkaSettings, partitions: int) -> str:
    """The way to more partitions."""
    return (
        "Partition growth is refused: tenants would move to partitions that do not know their past. Go over to new topics "
        f"and a new group: BURNGUARD_KAFKA_USAGE_TOPIC={settings.usage_topic}-2 BURNGUARD_KAFKA_PREFIX={settings.prefix}-2 "
        f"BURNGUARD_KAFKA_GROUP={settings.group}-2 burnguard topics init --partitions {partitions}, point producers there, "
        f"and stop the old workers when they have read {settings.usage_topic} to its end"
    )


def grant(settings: KafkaSettings, right: str, kind: str, name: str) -> str:
    """The right as kafka-acls.sh spells it."""
    spelled = "".join(part.title() for part in right.split("_"))
    who = settings.username or ("<the name in your certificate>" if settings.cert_file else "ANONYMOUS")
    return (
        f"needs {spelled}: {tool(settings, 'kafka-acls')} --add --allow-principal 'User:{who}' "
        f"--operation {spelled} --{kind} {name}"
    )


def alter(settings: KafkaSettings, name: str, key: str, value: str) -> str:
    return f"{tool(settings, 'kafka-configs')} --alter --entity-type topics --entity-name {name} --add-config {key}={value}"


def tool(settings: KafkaSettings, name: str) -> str:
    login = "" if settings.security_protocol == "PLAINTEXT" else " --command-config client.properties"
    return f"{name}.sh --bootstrap-server {settings.bootstrap}{login}"
