"""Process settings, from the environment (BURNGUARD_...)."""

from __future__ import annotations

import base64
import ssl
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as Unparsed

from schemas.policy import Policy
from stream.columns import MOST_KEYS


class SettingsError(ValueError):
    """What is missing or wrong, and how to mend it."""


class FromEnvironment(BaseSettings):
    """Raises SettingsError, nothing else."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            prefix = self.model_config["env_prefix"]
            raise SettingsError("; ".join(_mistake(prefix, each) for each in error.errors())) from error


def _mistake(prefix: str, each: ErrorDetails) -> str:
    if not each["loc"]:  # of a validator that names the setting itself
        return each["msg"].removeprefix("Value error, ")
    name = f"{prefix}{str(each['loc'][0]).upper()}"
    if each["type"] == "missing":
        return f"{name} is not set: your brokers as host:port (several: with commas)"
    return f"{name}: {each['msg']}"


class Settings(FromEnvironment):
    """Where orders go. The secret (whsec_...) is read from a file, one a line: two while you rotate it."""

    model_config = SettingsConfigDict(env_prefix="BURNGUARD_", frozen=True)

    webhook_url: str | None = None
    webhook_secret_file: Path | None = None
    webhook_allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    webhook_allow_http: bool = False
    runbook_url: str = "docs/runbooks/"
    checkpoint_s: float = Field(default=5.0, ge=0)
    """Seconds between two checkpoints of a run on a file, longer where they take long; 0: one after every 4 MB."""
    usage_days: int = Field(default=100, ge=1, le=36_500)
    """How long the ledger keeps hourly usage, counted back from its newest hour; the default holds any quarter of a year."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except Unparsed as error:
            raise SettingsError(
                'BURNGUARD_WEBHOOK_ALLOW_NETWORKS must be a JSON list of networks, such as ["10.1.0.0/16"]'
            ) from error

    def check(self, policy: Policy) -> None:
        """Raises SettingsError where an armed throttle could not be delivered."""
        armed = [rule.name for rule in policy.rules if rule.armed and any(step.throttle for step in rule.do)]
        if self.webhook_url is None:
            if armed:
                raise SettingsError(f"rule {armed[0]} is armed, but BURNGUARD_WEBHOOK_URL is not set")
            return
        scheme = _whole(self.webhook_url).scheme
        if scheme != "https" and not (scheme == "http" and self.webhook_allow_http):
            raise SettingsError("BURNGUARD_WEBHOOK_URL must be https (or http with BURNGUARD_WEBHOOK_ALLOW_HTTP=true)")
        self.secrets()

    def secrets(self) -> tuple[str, ...]:
        """The signing secrets. Raises SettingsError."""
        if self.webhook_secret_file is None:
            raise SettingsError("BURNGUARD_WEBHOOK_SECRET_FILE is not set: webhooks are always signed")
        try:
            found = tuple(self.webhook_secret_file.read_text().split())
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"BURNGUARD_WEBHOOK_SECRET_FILE: {_why(error)}") from error
        if not 1 <= len(found) <= 2 or not all(_signs(secret) for secret in found):
            raise SettingsError("BURNGUARD_WEBHOOK_SECRET_FILE must hold one or two secrets, one a line: whsec_ and base64")
        return found


def _whole(url: str) -> SplitResult:
    """The parts of a URL that a request can be sent to. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        _ = parts.port
    except ValueError as error:
        raise SettingsError(f"BURNGUARD_WEBHOOK_URL: {error}") from error
    if not host:
        raise SettingsError("BURNGUARD_WEBHOOK_URL: it names no host")
    return parts


def _signs(secret: str) -> bool:
    coded = secret.removeprefix("whsec_").rstrip("=")
    try:
        return secret.startswith("whsec_") and bool(base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True))
    except ValueError:
        return False


TopicName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,200}$")]


class KafkaSettings(FromEnvironment):
    """Which Kafka, how to get in, and the names of our topics and groups there.

    The password is read from a file, and only when a client is made: it stands in no setting and no repr.
    """

    model_config = SettingsConfigDict(env_prefix="BURNGUARD_KAFKA_", frozen=True, env_ignore_empty=True)

    bootstrap: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    usage_topic: TopicName = "usage"
    prefix: TopicName = "burnguard"
    group: Annotated[str, Field(min_length=1, max_length=200)] = "burnguard"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)  # what is not given comes from the environment, also `bootstrap`

    @property
    def signals_topic(self) -> str:
        return f"{self.prefix}.signals"

    @property
    def state_topic(self) -> str:
        return f"{self.prefix}.state"

    @property
    def quarantine_topic(self) -> str:
        return f"{self.prefix}.quarantine"

    @property
    def responder_group(self) -> str:
        return f"{self.group}-responder"

    def client(self) -> dict[str, Any]:
        """How to reach the brokers, as keyword arguments of every aiokafka and kafka-python client.

        It holds the password: never log it. Raises SettingsError where a file cannot be used.
        """
        found: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            found["ssl_context"] = self._tls()
        if self.security_protocol.startswith("SASL"):
            found["sasl_mechanism"] = self.sasl_mechanism
            found["sasl_plain_username"] = self.username
            found["sasl_plain_password"] = self._password()
        return found

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for server in self.bootstrap.split(","):
            if not server.rpartition(":")[2].isdecimal() or not server.rpartition(":")[0]:
                raise ValueError(f"BURNGUARD_KAFKA_BOOTSTRAP: {server!r} is not host:port (several: with commas, no spaces)")
        sasl = {"SASL_MECHANISM": self.sasl_mechanism, "USERNAME": self.username, "PASSWORD_FILE": self.password_file}
        tls = {"CA_FILE": self.ca_file, "CERT_FILE": self.cert_file, "KEY_FILE": self.key_file}
        for name, value in sasl.items():
            if self.security_protocol.startswith("SASL") and value is None:
                raise ValueError(f"BURNGUARD_KAFKA_{name} is not set: {self.security_protocol} needs it")
        for others, family, mend in ((sasl, "SASL", "SASL_SSL"), (tls, "SSL", "SSL or SASL_SSL")):
            inside = self.security_protocol.split("_")
            for name, value in others.items():
                if value is not None and family not in inside:
                    raise ValueError(
                        f"BURNGUARD_KAFKA_{name} is set, but BURNGUARD_KAFKA_SECURITY_PROTOCOL is "
                        f"{self.security_protocol}: set that to {mend}, or unset this"
                    )
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("BURNGUARD_KAFKA_CERT_FILE is not set: BURNGUARD_KAFKA_KEY_FILE is the key of a certificate")
        if self.usage_topic in (self.signals_topic, self.state_topic, self.quarantine_topic):
            raise ValueError(f"BURNGUARD_KAFKA_USAGE_TOPIC: {self.usage_topic} is a topic of ours; usage needs another")
        return self

    def _password(self) -> str:
        assert self.password_file is not None  # see _consistent
        try:
            password = self.password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"BURNGUARD_KAFKA_PASSWORD_FILE: {_why(error)}") from error
        if not password:
            raise SettingsError("BURNGUARD_KAFKA_PASSWORD_FILE: the file is empty")
        return password

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise SettingsError(f"BURNGUARD_KAFKA_CA_FILE: {_why(error)}; it must hold PEM certificates") from error
        if self.cert_file is not None:
            _load_pair(context, "BURNGUARD_KAFKA", self.cert_file, self.key_file)
        return context


def _load_pair(context: ssl.SSLContext, prefix: str, cert_file: Path, key_file: Path | None) -> None:
    try:
        context.load_cert_chain(cert_file, key_file, password=lambda: "")  # "": never ask the terminal
    except OSError as error:
        message = f"{prefix}_CERT_FILE, {prefix}_KEY_FILE: {_why(error)}"
        raise SettingsError(f"{message}; they must hold a PEM certificate and its unencrypted key") from error


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class WorkerSettings(FromEnvironment):
    """How a worker works. `instance` is a static member name (such as the pod's), so that a quick restart moves nothing."""

    model_config = SettingsConfigDict(env_prefix="BURNGUARD_WORKER_", frozen=True, env_ignore_empty=True)

    instance: str | None = None
    session_timeout_s: Annotated[float, Field(ge=6, le=300)] = 30.0
    checkpoint_s: Annotated[float, Field(gt=0, le=300)] = 5.0
    checkpoint_mb_s: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    """Megabytes a second that go into the topic of state, on average; half of `stuck_s` is the longest it waits for that."""
    stuck_s: Annotated[float, Field(ge=10)] = 120.0
    keys: Annotated[int, Field(ge=1_000, le=10_000_000)] = MOST_KEYS
    """Keys that a partition keeps (see stream/rows.py); the same for all workers of a group."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 9464

    @property
    def longest_s(self) -> float:
        """Between two rounds of checkpoints: a round may take as long again before the worker counts as stuck."""
        return self.stuck_s / 2

    @model_validator(mode="after")
    def _saved_before_stuck(self) -> Self:
        if self.checkpoint_s > self.longest_s:
            raise ValueError(
                f"BURNGUARD_WORKER_CHECKPOINT_S: {self.checkpoint_s:g} is more than half of BURNGUARD_WORKER_STUCK_S"
                f" ({self.stuck_s:g}): a worker that only waits would count as stuck"
            )
        return self


class IntakeSettings(FromEnvironment):
    """Where the intake listens, and how much it holds: of one body (also unpacked), and of all that are not answered yet."""

    model_config = SettingsConfigDict(env_prefix="BURNGUARD_INTAKE_", frozen=True, env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9465
    body_mib: Annotated[int, Field(ge=1, le=256)] = 16
    buffer_mib: Annotated[int, Field(ge=1, le=4_096)] = 128
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def body_bytes(self) -> int:
        return self.body_mib << 20

    @property
    def buffer_bytes(self) -> int:
        return self.buffer_mib << 20

    def tls(self) -> ssl.SSLContext | None:
        """What we serve with, None for plain HTTP. Raises SettingsError where a file cannot be used."""
        if self.cert_file is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        _load_pair(context, "BURNGUARD_INTAKE", self.cert_file, self.key_file)
        return context

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("BURNGUARD_INTAKE_CERT_FILE is not set: BURNGUARD_INTAKE_KEY_FILE is the key of a certificate")
        return self
