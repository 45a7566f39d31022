"""How every part of Burnguard gets into Kafka: one set of variables, one dict, both client libraries, a real TLS listener."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from examples.kafka.broker import Broker
from stream.settings import KafkaSettings, SettingsError


async def passes_a_message(settings: KafkaSettings, topic: str) -> None:
    """Admin and producer of kafka-python, producer and consumer of aiokafka, all by the same dict."""
    client = settings.client()
    admin = KafkaAdminClient(**client)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    producer = KafkaProducer(**client)
    producer.send(topic, b"kafka-python").get(20)
    producer.close()
    async with (
        AIOKafkaProducer(**client) as sender,
        AIOKafkaConsumer(topic, auto_offset_reset="earliest", group_id=topic, **client) as consumer,
    ):
        await sender.send_and_wait(topic, b"aiokafka")
        assert [(await consumer.getone()).value for _ in range(2)] == [b"kafka-python", b"aiokafka"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_one_dict_lets_both_libraries_in_over_sasl_and_tls(
    own_broker: Broker, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    (tmp_path / "password").write_text(own_broker.password + "\n")
    for name, value in {
        "BOOTSTRAP": own_broker.sasl_ssl,
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_MECHANISM": mechanism,
        "USERNAME": own_broker.username,
        "PASSWORD_FILE": str(tmp_path / "password"),
        "CA_FILE": str(own_broker.ca),
    }.items():
        monkeypatch.setenv(f"BURNGUARD_KAFKA_{name}", value)
    settings = KafkaSettings()
    assert own_broker.password not in repr(settings)
    await passes_a_message(settings, topic_prefix)


async def test_a_client_certificate_lets_in_where_the_broker_asks_for_one(
    own_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    both = tmp_path / "client.pem"
    unpack = ["openssl", "pkcs12", "-in", str(own_broker.client_keystore), "-nodes", "-out", str(both)]
    subprocess.run([*unpack, "-passin", f"pass:{own_broker.password}"], check=True, capture_output=True)
    tls: dict[str, Any] = {"bootstrap": own_broker.ssl, "security_protocol": "SSL", "ca_file": own_broker.ca}
    await passes_a_message(KafkaSettings(**tls, cert_file=both), topic_prefix)
    await passes_a_message(KafkaSettings(**tls, cert_file=both, key_file=both), topic_prefix + "-2")


async def test_without_a_file_of_authorities_nothing_is_set_and_plaintext_works(
    own_broker: Broker, topic_prefix: str
) -> None:
    await passes_a_message(KafkaSettings(bootstrap=own_broker.bootstrap), topic_prefix)


HERE = {"bootstrap": "kafka:9092"}
SASL = {**HERE, "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "a", "password_file": "p"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "BURNGUARD_KAFKA_BOOTSTRAP is not set: your brokers as host:port"),
        ({"bootstrap": "kafka"}, "'kafka' is not host:port"),
        ({"bootstrap": "kafka:9092, other:9092,"}, "'' is not host:port"),
        ({**HERE, "security_protocol": "TLS"}, "BURNGUARD_KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT', 'SSL'"),
        ({**SASL, "sasl_mechanism": None}, "BURNGUARD_KAFKA_SASL_MECHANISM is not set: SASL_SSL needs it"),
        ({**SASL, "username": None}, "BURNGUARD_KAFKA_USERNAME is not set"),
        ({**SASL, "password_file": None}, "BURNGUARD_KAFKA_PASSWORD_FILE is not set"),
        ({**HERE, "sasl_mechanism": "PLAIN"}, "SECURITY_PROTOCOL is PLAINTEXT: set that to SASL_SSL, or unset this"),
        ({**HERE, "ca_file": "ca.pem"}, "SECURITY_PROTOCOL is PLAINTEXT: set that to SSL or SASL_SSL, or unset this"),
        ({**HERE, "security_protocol": "SSL", "key_file": "k"}, "BURNGUARD_KAFKA_CERT_FILE is not set"),
        ({**HERE, "usage_topic": "no spaces"}, "BURNGUARD_KAFKA_USAGE_TOPIC: String should match pattern"),
        ({**HERE, "usage_topic": "burnguard.state"}, "burnguard.state is a topic of ours; usage needs another"),
    ],
)
def test_settings_that_cannot_work_say_what_to_do(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        KafkaSettings(**given)
    assert said in str(error.value)


def test_files_that_cannot_be_used_are_named_and_no_password_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "text").write_text("not PEM")
    locked = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=a", "-passout", "pass:secret", "-days", "9"]
    subprocess.run([*locked, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    tls: dict[str, Any] = {**HERE, "security_protocol": "SSL"}
    for given, said in [
        ({**SASL, "password_file": tmp_path / "none"}, "BURNGUARD_KAFKA_PASSWORD_FILE: No such file"),
        ({**SASL, "password_file": tmp_path / "empty"}, "BURNGUARD_KAFKA_PASSWORD_FILE: the file is empty"),
        ({**tls, "ca_file": tmp_path / "none"}, "BURNGUARD_KAFKA_CA_FILE: No such file"),
        ({**tls, "ca_file": tmp_path / "text"}, "must hold PEM certificates"),
        ({**tls, "cert_file": tmp_path / "text"}, "must hold a PEM certificate and its unencrypted key"),
        ({**tls, "cert_file": tmp_path / "cert", "key_file": tmp_path / "key"}, "and its unencrypted key"),
    ]:
        with pytest.raises(SettingsError) as error:
            KafkaSettings(**given).client()
        assert said in str(error.value)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNGUARD_KAFKA_BOOTSTRAP", "kafka:9092")
    monkeypatch.setenv("BURNGUARD_KAFKA_USERNAME", "")
    settings = KafkaSettings()
    assert (settings.signals_topic, settings.responder_group) == ("burnguard.signals", "burnguard-responder")
    assert settings.client() == {"bootstrap_servers": ["kafka:9092"], "security_protocol": "PLAINTEXT"}


def test_the_page_for_producers_names_every_variable_and_no_other() -> None:
    page = (Path(__file__).parent.parent / "docs" / "producers.md").read_text()
    named = set(re.findall(r"`BURNGUARD_KAFKA_(\w+)`", page))
    assert named == {name.upper() for name in KafkaSettings.model_fields}
