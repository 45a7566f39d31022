"""`python -m tests.fuzz TARGET`: coverage-guided fuzzing (Atheris) of decode and of every source of the intake.

TARGET is `decode`, a source, or `all`. Kernels are interpreted, so that the scanner's branches are seen too. Seeds are good
payloads, what real software sent and the hostile corpus; what must hold stands in `tests.hostile`, and what breaks it is left
in `--finds`: add it to `RAW` or `FRAGMENTS` there.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris
import click
import numpy as np

with atheris.instrument_imports(include=["schemas"]):
    from stream.intake import Source
    from tests import hostile

LONGEST, SLOWEST_S, MOST_MB = 1 << 15, 20, 2_048


def seeds(sources: Sequence[Source]) -> Iterator[bytes]:
    """Good payloads, captured ones and hostile ones."""
    for source, payload in hostile.payloads().values():
        if source in sources:
            yield json.dumps(payload).encode()
    for source in sources:
        yield from hostile.captured(source)
    yield from hostile.RAW
    yield from hostile.PROTOBUF if "otlp" in sources else ()


def places(raw: bytes) -> list[tuple[Any, ...]]:
    """Every path in a JSON document; none in what is no JSON."""
    try:
        return hostile.places(json.loads(raw))
    except (ValueError, RecursionError):
        return []


@click.command()
@click.argument("target", type=click.Choice(("all", "decode", *hostile.INTAKE)))
@click.option("--seconds", default=60)
@click.option("--runs", default=-1, help="Stop after so many executions.")
@click.option("--finds", default=".", help="Folder for what breaks a rule.")
def main(target: Any, seconds: int, runs: int, finds: str) -> None:
    """Look for bytes that break a rule."""
    np.seterr(over="ignore")  # hashes wrap
    sources: Sequence[Source] = hostile.INTAKE if target == "all" else ["native" if target == "decode" else target]
    good = [raw for raw in seeds(sources) if len(raw) <= LONGEST]
    corpus = Path(tempfile.mkdtemp(prefix="burnguard-fuzz-"))
    for raw in good:
        (corpus / sha256(raw).hexdigest()).write_bytes(raw)
    names = {json.dumps(path[-1]).encode() for raw in good for path in places(raw)}
    fragments = [*sorted(names), *hostile.FRAGMENTS]

    def one(raw: bytes) -> None:
        for source in sources if target != "decode" else ():
            hostile.intake_holds(source, raw)
        if target in ("all", "decode"):
            hostile.decode_holds(raw)

    def mutated(raw: bytes, most: int, seed: int) -> bytes:
        """JSON with another value in one place, or any bytes as libFuzzer changes them."""
        chance = random.Random(seed)
        options = places(raw) if chance.random() < 0.6 else []
        if not options:
            return bytes(atheris.Mutate(raw, most))
        path, fragment = chance.choice(options), chance.choice(fragments)
        return hostile.bend(json.loads(raw), path, fragment, chance.random() < 0.2)[:most]

    limits = [f"-max_len={LONGEST}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MB}", f"-max_total_time={seconds}"]
    aside = [f"-artifact_prefix={finds}/{target}-", "-print_final_stats=1", f"-runs={runs}"]
    atheris.Setup(["fuzz", *limits, *aside, str(corpus)], one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
