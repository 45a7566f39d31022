"""Getting through to the brokers with kafka-python, and saying what stands in the way."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stream.settings import KafkaSettings

PATIENCE_MS = 8_000
PROBED = 3
"""With more servers than this, the rest are not probed for the reason: nobody waits longer than 15 s."""


class Unreachable(Exception):
    """What stands in the way, and what to do about it."""


@contextmanager
def admin(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    """Raises Unreachable, also where brokers stop answering in between, and SettingsError."""
    client = settings.client()
    try:
        kafka = KafkaAdminClient(**client, bootstrap_timeout_ms=PATIENCE_MS, request_timeout_ms=PATIENCE_MS)
    except KafkaError as error:  # it says no more than that time is over
        raise Unreachable(obstacle(settings)) from error
    try:
        yield kafka
    except KafkaError as error:
        raise Unreachable(f"{settings.bootstrap}: {brief(error)}") from error
    finally:
        kafka.close()


def brief(error: Exception) -> str:
    """The name of a Kafka error and what it adds; kafka-python likes to append the whole request."""
    name = type(error).__name__
    text = str(error).partition(f"{name}: ")[2] or str(error)
    return f"{name}: {text}" if text and "Request(" not in text and text != name else name


def obstacle(settings: KafkaSettings) -> str:
    """Why no bootstrap server lets us in, found by knocking at them without kafka-python."""
    server, closed = knock(settings)
    return f"{server} accepts connections, {_not_let_in(settings)}" if server else closed


def knock(settings: KafkaSettings) -> tuple[str, str]:
    """The first bootstrap server that accepts a connection, or "" and why none does."""
    client = settings.client()
    tls: ssl.SSLContext | None = client.get("ssl_context")
    closed = []
    for server in client["bootstrap_servers"][:PROBED]:
        reason = _closed(server, tls)
        if reason is None:
            return server, ""
        closed.append(f"{server}: {reason}")
    return "", "; ".join(closed)


def hang_up(kafka: KafkaProducer, within_s: float) -> None:
    """Closes a producer now; whoever still waits for an answer is told that there is none. close() alone would wait."""
    kafka._sender.force_close()
    kafka._sender.join(within_s)
    kafka.close(timeout=within_s)


def _closed(server: str, tls: ssl.SSLContext | None) -> str | None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        plain = socket.create_connection((host, int(port)), timeout=1)
    except OSError as error:
        return f"cannot connect ({error.strerror or error}); is it running, and BURNGUARD_KAFKA_BOOTSTRAP right?"
    with plain:
        if tls is None:
            return None
        try:
            tls.wrap_socket(plain, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            mend = "BURNGUARD_KAFKA_CA_FILE must name the authority that signed it"
            return f"its certificate is not trusted ({error.verify_message}); {mend}"
        except OSError as error:
            return f"no TLS there ({error.strerror or error}); is BURNGUARD_KAFKA_SECURITY_PROTOCOL right?"
    return None


def _not_let_in(settings: KafkaSettings) -> str:
    if settings.security_protocol.startswith("SASL"):
        return (
            f"but does not let {settings.username} in: check BURNGUARD_KAFKA_SASL_MECHANISM, BURNGUARD_KAFKA_USERNAME and "
            "the password in BURNGUARD_KAFKA_PASSWORD_FILE"
        )
    if settings.security_protocol == "SSL":
        return "but does not serve us: it may want a client certificate (BURNGUARD_KAFKA_CERT_FILE) or SASL_SSL"
    return "but does not answer as Kafka without TLS does: is BURNGUARD_KAFKA_SECURITY_PROTOCOL right?"
