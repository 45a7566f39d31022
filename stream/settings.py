"""Process settings, from the environment (BURNGUARD_...)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.policy import Policy


class SettingsError(ValueError):
    """What is missing or wrong, and how to mend it."""


class Settings(BaseSettings):
    """Where orders go. The secret (whsec_...) is read from a file, one a line: two while you rotate it."""

    model_config = SettingsConfigDict(env_prefix="BURNGUARD_", frozen=True)

    webhook_url: str | None = None
    webhook_secret_file: Path | None = None
    webhook_allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    webhook_allow_http: bool = False
    runbook_url: str = "docs/runbooks/"
    checkpoint_s: float = Field(default=5.0, ge=0)
    """Seconds between two checkpoints of a run on a file, longer where they take long; 0: one after every 4 MB."""

    def check(self, policy: Policy) -> None:
        """Raises SettingsError where an armed throttle could not be delivered."""
        armed = [rule.name for rule in policy.rules if rule.armed and any(step.throttle for step in rule.do)]
        if self.webhook_url is None:
            if armed:
                raise SettingsError(f"rule {armed[0]} is armed, but BURNGUARD_WEBHOOK_URL is not set")
            return
        scheme = urlsplit(self.webhook_url).scheme
        if scheme != "https" and not (scheme == "http" and self.webhook_allow_http):
            raise SettingsError("BURNGUARD_WEBHOOK_URL must be https (or http with BURNGUARD_WEBHOOK_ALLOW_HTTP=true)")
        self.secrets()

    def secrets(self) -> tuple[str, ...]:
        """The signing secrets. Raises SettingsError."""
        if self.webhook_secret_file is None:
            raise SettingsError("BURNGUARD_WEBHOOK_SECRET_FILE is not set: webhooks are always signed")
        try:
            found = tuple(self.webhook_secret_file.read_text().split())
        except OSError as error:
            raise SettingsError(f"BURNGUARD_WEBHOOK_SECRET_FILE: {error.strerror}") from error
        if not 1 <= len(found) <= 2 or not all(secret.startswith("whsec_") for secret in found):
            raise SettingsError("BURNGUARD_WEBHOOK_SECRET_FILE must hold one or two whsec_ secrets, one a line")
        return found
