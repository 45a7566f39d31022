"""The broker that the other tests stand on: what it promises them."""

from __future__ import annotations

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from examples.kafka.broker import Broker
from tests.workers import eventually


def test_a_killed_broker_comes_back_on_the_same_port_with_its_topics(own_broker: Broker, topic_prefix: str) -> None:
    before = own_broker.bootstrap
    admin = KafkaAdminClient(bootstrap_servers=before)
    admin.create_topics([NewTopic(topic_prefix, 1, 1)])
    admin.close()
    own_broker.kill()
    assert own_broker.pid is None
    own_broker.start()
    producer = KafkaProducer(bootstrap_servers=before)
    assert producer.send(topic_prefix, b"still here").get(20).offset == 0
    producer.close()
    assert own_broker.bootstrap == before


def test_another_process_may_stop_it(own_broker: Broker) -> None:
    other = Broker(own_broker.folder)
    assert other.pid == own_broker.pid
    other.stop()
    eventually(lambda: own_broker.pid is None, 10, "it is seen here too")
