"""`python -m bench.fields`: what fields that nothing uses cost to scan, beside what the bytes they add cost anyway.

The same calls with what is required, with all that something uses, with the other optional fields of the contract added, and
with unknown fields of the same bytes instead; in turns, in one run. CPU of the scan and of the whole decode, best turn.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from typing import Any

from schemas.batch import Lines
from schemas.decode import Decoder, _Columns, split
from schemas.scan import COUNTS, ENUMS, FIELDS, IDS, NAMES, TIMES, scan
from schemas.usage import UsageEvent

CALLS, AT_ONCE, TURNS = 100_000, 2_000, 15
USED = {*NAMES, *IDS, *TIMES, *COUNTS, *ENUMS, "requested_model"} - {"arrival_ts"}
CALL: dict[str, Any] = {
    "event_id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "ts": 1790000000.123456,
    **{"tenant": "tenant-17", "key_id": "key-4711", "model": "gpt-4o", "provider": "openai", "requested_model": "gpt-4o"},
    **{"operation": "chat", "input_tokens": 3512, "output_tokens": 812, "cached_input_tokens": 1024},
    **{"cache_write_tokens": 256, "cache_write_1h_tokens": 0, "reasoning_tokens": 120, "audio_input_tokens": 0},
    **{"audio_output_tokens": 0, "retrieved_tokens": 900, "estimated_input_tokens": 3500, "web_search_requests": 1},
    **{"tool_calls": 2, "service_tier": "standard", "response_cache": "miss", "status": 200, "latency_ms": 812.5},
    **{"queue_ms": 3.25, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy", "attempt": 1, "session_id": "session-2517"},
    **{"trace_id": "0af7651916cd43dd8448eb211c80319c", "outcome": "ok", "user_id": "9f86d081884c7d659a2feaa0c55ad015"},
    **{"client_ip": "203.0.113.7", "asn": 64496, "country": "DE", "feature": "support-chat", "environment": "production"},
    **{"user_agent": "OpenAI/Python 2.3.0 (Linux x86_64) httpx/0.28.1", "experiment": "prompt-v7", "variant": "b"},
    **{"origin_tenant": "customer-9", "prompt_fingerprint": "9ae16a3b2f90404f", "prompt_simhash": "c3a5c85c97cb3127"},
    **{"cost_usd": 0.0174},
}


def lines(fields: dict[str, Any]) -> Lines:
    """The same call again and again, its id, key and counts changing."""
    row = json.dumps(fields, separators=(",", ":")).encode()
    rows = [
        row.replace(b"b302099a8057", b"%012x" % n)
        .replace(b"key-4711", b"key-%04d" % (n % 1_000))
        .replace(b":3512", b":%d" % (3_000 + n % 999))
        for n in range(CALLS)
    ]
    return split(b"\n".join(rows))


def variants() -> dict[str, Lines]:
    """The calls as each variant has them."""
    required = {name: CALL[name] for name in FIELDS if UsageEvent.model_fields[name].is_required()}
    used = {name: CALL[name] for name in FIELDS if name in USED}
    whole = {name: CALL[name] for name in FIELDS if name in CALL}
    unknown = {f"{name[:-1]}_": value for name, value in whole.items() if name not in USED}
    return {
        "required fields only": lines(required),
        "all that something uses": lines(used),
        "... and the optional ones that nothing uses": lines(whole),
        "... or as many bytes of unknown ones": lines(used | unknown),
    }


def scanned(found: Lines) -> None:
    """The fast path alone; all rows must take it."""
    for lo in range(0, CALLS, AT_ONCE):
        part = found.rows(lo, lo + AT_ONCE)
        columns = _Columns(AT_ONCE)
        scan(part.buffer, part.start, part.end, *columns.written())
        assert not columns.slow.any()


def decoded(found: Lines) -> None:
    """Everything up to the batch."""
    Decoder().decode(found)


def best(work: Callable[[Lines], None], all_lines: dict[str, Lines]) -> dict[str, float]:
    """Nanoseconds of CPU a call, of the best of some turns."""
    took = dict.fromkeys(all_lines, float("inf"))
    for _ in range(TURNS):
        for name, found in all_lines.items():
            began = time.process_time()
            work(found)
            took[name] = min(took[name], (time.process_time() - began) / CALLS * 1e9)
    return took


def main() -> None:
    """Print both tables."""
    all_lines = variants()
    size = {name: len(found.buffer) / CALLS for name, found in all_lines.items()}
    used = "all that something uses"
    print(f"{platform.machine()}, Python {platform.python_version()}; {CALLS:,} calls, best of {TURNS} turns, CPU\n")
    for title, work in (("scan", scanned), ("decode", decoded)):
        took = best(work, all_lines)
        print(f"| {title} | bytes | ns a call | ns a byte | ns a byte added, over that of a used one |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for name, ns in took.items():
            each, more = took[used] / size[used], size[name] - size[used]
            added = f"{(ns - took[used]) / more / each:.2f}" if more > 0 else ""
            print(f"| {name} | {size[name]:.0f} | {ns:.0f} | {ns / size[name]:.2f} | {added} |")
        print()


if __name__ == "__main__":
    main()
