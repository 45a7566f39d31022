"""Simulated gateway traffic as NDJSON usage events: `history FILE` writes a past day, `live URL` plays on in real time."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

TRACE = Path(__file__).with_name("history.csv.gz")
DAY = 86_400
TENANTS = ("acme", "globex", "initech")
MODELS = (("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"))
STOLEN = ("acme", "acme-key-116")
QUIET_S, GIVE_UP_S, LIVE_S = 8.0, 10.0, 80.0
THIEF_GAP_S = 1.2
"""A call of 20,000 tokens in and 4,000 out at $15/$75 a million costs $0.60: $30 a minute."""
Event = dict[str, object]


def trace() -> Iterator[tuple[float, Event]]:
    """Second of the day and event, in time order."""
    clients: dict[str, int] = {}
    with gzip.open(TRACE, "rt") as file:
        for n, row in enumerate(csv.DictReader(file)):
            client = clients.setdefault(row["client"], len(clients))
            tenant = TENANTS[client % len(TENANTS)]
            if row["client"] == "116":
                tenant = STOLEN[0]
            provider, model = MODELS[client % len(MODELS)]
            yield (
                float(row["t_s"]),
                {
                    "event_id": f"call-{n}",
                    "tenant": tenant,
                    "key_id": f"{tenant}-key-{row['client']}",
                    "provider": provider,
                    "model": model,
                    "input_tokens": int(row["input_tokens"]),
                    "output_tokens": int(row["output_tokens"]),
                    "status": 200,
                },
            )


def history(file: Path) -> None:
    """The day of the trace, shifted so that it ends now."""
    start = time.time() - DAY
    with file.open("w") as out:
        for second, event in trace():
            out.write(json.dumps({**event, "ts": start + second}) + "\n")


class Gateway:
    """Sends calls on unless the receiver says that their key is throttled."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asked = 0.0
        self._throttled: set[tuple[str, str]] = set()

    def admits(self, tenant: str, key_id: str) -> bool:
        if time.monotonic() - self._asked > 0.5:
            with urllib.request.urlopen(f"{self._url}/throttled", timeout=2) as answer:
                self._throttled = {(t["tenant"], t["key_id"]) for t in json.load(answer)}
            self._asked = time.monotonic()
        return (tenant, key_id) not in self._throttled

    def send(self, event: Event) -> bool:
        if not self.admits(str(event["tenant"]), str(event["key_id"])):
            return False
        print(json.dumps({**event, "event_id": f"live-{time.time_ns()}", "ts": time.time()}), flush=True)
        return True


def live(url: str) -> None:
    """The trace's first minutes again in real time; after 8 s a thief uses a stolen key until it is refused for 10 s."""
    gateway = Gateway(url)
    began = reported = time.monotonic()
    usual = trace()
    second, event = next(usual)
    next_theft, refused_since, burnt, refused = began + QUIET_S, 0.0, 0, 0
    thief = {"provider": "anthropic", "model": "claude-opus-4-1", "input_tokens": 20_000, "output_tokens": 4_000}
    while (now := time.monotonic()) < began + LIVE_S:
        while second <= now - began:
            gateway.send(event)
            second, event = next(usual)
        if now >= next_theft:
            next_theft += THIEF_GAP_S
            stolen: Event = {"tenant": STOLEN[0], "key_id": STOLEN[1], "status": 200, **thief}
            if gateway.send(stolen):
                burnt, refused_since = burnt + 1, 0.0
            else:
                refused, refused_since = refused + 1, refused_since or now
                if now - refused_since > GIVE_UP_S:
                    next_theft = float("inf")
        if now >= reported + 5:
            print(
                f"stolen key: {burnt} calls let through, {refused} refused in 5 s",
                file=sys.stderr,
                flush=True,
            )
            reported, burnt, refused = now, 0, 0
        time.sleep(0.05)


if __name__ == "__main__":
    {"history": lambda: history(Path(sys.argv[2])), "live": lambda: live(sys.argv[2])}[sys.argv[1]]()
