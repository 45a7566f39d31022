"""Bytes -> Batch: the scanner decides what it can, `schemas.call` the rest."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from schemas.batch import ABSENT, I32, RESPONSE_CACHE, SERVICE_TIERS, Batch, Lines
from schemas.call import Refused, convert, json_of
from schemas.quarantine import Quarantined, fingerprint
from schemas.scan import COUNTS, ENUMS, FIELDS, IDS, MAX_LINE, MOST, NAMES, NUMBERS, P2, P3, UNITS, WRITE, WRITE_1H, scan
from schemas.snapshot import BadCheckpoint, Snapshot, array, joined, number, of_numbers, of_texts, part, texts
from schemas.usage import MAX_COUNT, SHOWN
from schemas.vocabulary import BoundedVocabulary, FirstModels, Vocabulary

SAMPLE = 1_000
"""Unknown field names are counted on one accepted row in so many."""
AT_ONCE = 2_000
"""Lines that are still in a core's cache when their names are looked up."""
MOST_NAMES, LONGEST_NAME = 100, 64
MOST_MODELS, MOST_FEATURES, MOST_OPERATIONS = 5_000, 1_000, 100
"""Of a partition; who comes later is "other"."""
NOBODY: I32 = np.empty(0, np.int32)
_SHOWN = re.compile(SHOWN)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""A name that is shown; what else stands where a name does may be somebody's text."""
_VERSION = re.compile(r"@|-[0-9]{2,}(?:-|\Z)|\Z")


_KNOWN = frozenset(FIELDS)


def parse(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; msgspec is the one judge of syntax (a name given twice: the last counts). Raises Refused."""
    if len(line) > MAX_LINE:
        raise Refused("line_too_long")
    value = json_of(line)
    if not isinstance(value, dict):
        raise Refused("not a JSON object")
    return value


class Decoder:
    """Turns lines into batches, and keeps the vocabularies that a batch's columns point into."""

    def __init__(self) -> None:
        self.tenants = Vocabulary()
        self.keys = Vocabulary(parts=2)
        self.models = FirstModels(MOST_MODELS)
        self.features = BoundedVocabulary(MOST_FEATURES)
        self.operations = BoundedVocabulary(MOST_OPERATIONS)
        self.unknown_names: Counter[str] = Counter()
        self._accepted = 0

    def decode(
        self, lines: Lines, first_line: int = 0, partition: int = 0, held: Batch | None = None
    ) -> tuple[Batch, list[Quarantined]]:
        """The calls of the lines in order, and a row for every line that was refused.

        New names may get the idle rows of tenants and keys, so all that was decoded before must be folded, but `held`.
        """
        self.tenants.free(NOBODY if held is None else held.tenant)
        self.keys.free(NOBODY if held is None else held.key)
        if len(lines.start) <= AT_ONCE:
            return self._decode(lines, first_line, partition)
        firsts = range(0, len(lines.start), AT_ONCE)
        parts = [self._decode(lines.rows(lo, lo + AT_ONCE), first_line + lo, partition) for lo in firsts]
        return Batch.join(*(batch for batch, _ in parts)), [row for _, refused in parts for row in refused]

    def _decode(self, lines: Lines, first_line: int, partition: int) -> tuple[Batch, list[Quarantined]]:
        n = len(lines.start)
        columns = _Columns(n)
        scan(lines.buffer, lines.start, lines.end, *columns.written())
        refused: list[Quarantined] = []
        accepted = np.ones(n, np.bool_)
        aside = bytearray()
        for i in np.flatnonzero(columns.slow).tolist():
            line = lines.buffer[lines.start[i] : lines.end[i]].tobytes()
            event: dict[str, Any] = {}
            try:
                event = parse(line)
                columns.put(i, convert(event), aside, len(lines.buffer))
            except Refused as error:
                accepted[i] = False
                self._count_unknown(event)
                position = int(lines.position[i])
                refused.append(
                    Quarantined(error.reason, error.field, partition, position, first_line + i, len(line), fingerprint(line))
                )
        self._sample(lines, accepted)
        buffer = lines.buffer if not aside else np.concatenate([lines.buffer, np.frombuffer(bytes(aside), np.uint8)])
        buffer.flags.writeable = False  # so that every kernel is compiled once
        return self._batch(lines, buffer, columns, accepted), refused

    def snapshot(self) -> Snapshot:
        unknown: Snapshot = {
            "names": of_texts(self.unknown_names),
            "counts": np.array(list(self.unknown_names.values()), np.int64),
        }
        parts = joined(
            tenants=self.tenants.snapshot(),
            keys=self.keys.snapshot(),
            models=self.models.snapshot(),
            features=self.features.snapshot(),
            operations=self.operations.snapshot(),
            unknown=unknown,
        )
        return parts | of_numbers(accepted=self._accepted)

    def restore(self, snapshot: Snapshot) -> None:
        """Raises BadCheckpoint."""
        self.tenants.restore(part(snapshot, "tenants"))
        self.keys.restore(part(snapshot, "keys"))
        self.models.restore(part(snapshot, "models"))
        self.features.restore(part(snapshot, "features"))
        self.operations.restore(part(snapshot, "operations"))
        unknown = part(snapshot, "unknown")
        names, counts = texts(unknown, "names"), array(unknown, "counts", np.int64)
        if len(names) != len(counts):
            raise BadCheckpoint(f"{len(names)} unknown field names have {len(counts)} counts")
        self.unknown_names = Counter(dict(zip(names, counts.tolist(), strict=True)))
        self._accepted = number(snapshot, "accepted")

    def _batch(self, lines: Lines, buffer: NDArray[np.uint8], c: _Columns, accepted: NDArray[np.bool_]) -> Batch:
        skip = ~accepted

        def rows(vocabulary: Vocabulary, first: str, last: str) -> NDArray[np.int32]:
            at = slice(NAMES.index(first), NAMES.index(last) + 1)
            return vocabulary.rows(buffer, c.texts[at], c.lengths[at], c.hashes[at], skip)

        named = (
            rows(self.tenants, "tenant", "tenant"),
            rows(self.keys, "tenant", "key_id"),
            rows(self.models, "provider", "model"),
            rows(self.features, "feature", "feature"),
            rows(self.operations, "operation", "operation"),
        )
        c.counts[WRITE] = np.maximum(c.counts[WRITE], c.counts[WRITE_1H])
        ts, arrival, latency, cost = c.numbers
        *counts, status = c.counts
        tier, response_cache = c.enums
        event, request, *ids = c.ids
        tenant = P2 * c.hashes[NAMES.index("tenant")]
        owner = tenant + P3 * c.hashes[NAMES.index("key_id")]
        clock = np.where(lines.clock == ABSENT, arrival, lines.clock)
        first = (clock, lines.position, ts, event + tenant, *named, tier)
        rest: tuple[NDArray[Any], ...] = (
            status.astype(np.int16),
            np.minimum(latency, MAX_COUNT).astype(np.int32),
            c.fallback,
            response_cache,
            cost,
            np.where(request, np.maximum(request + owner, 1), 0),
            *ids,
        )
        every: tuple[NDArray[Any], ...] = (*first, *counts, *rest)
        return Batch(*(every if accepted.all() else (column[accepted] for column in every)))

    def _sample(self, lines: Lines, accepted: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(accepted)
        for i in rows[-self._accepted % SAMPLE :: SAMPLE].tolist():
            self._count_unknown(parse(lines.buffer[lines.start[i] : lines.end[i]].tobytes()))
        self._accepted += len(rows)

    def _count_unknown(self, event: dict[str, Any]) -> None:
        for name in event:
            short = name[:LONGEST_NAME] if _NAME.fullmatch(name) else "other"
            if name not in _KNOWN and (short in self.unknown_names or len(self.unknown_names) < MOST_NAMES):
                self.unknown_names[short] += 1


class _Columns:
    """Where the scanner writes."""

    def __init__(self, n: int) -> None:
        self.texts = np.zeros((len(NAMES), n), np.int64)
        self.lengths = np.zeros((len(NAMES), n), np.int32)
        self.hashes = np.zeros((len(NAMES), n), np.uint64)
        self.numbers = np.full((len(NUMBERS), n), ABSENT, np.int64)
        self.counts = np.full((len(COUNTS), n), ABSENT, np.int32)
        self.enums = np.full((len(ENUMS), n), ABSENT, np.int8)
        self.enums[0] = 0
        self.ids = np.zeros((len(IDS), n), np.uint64)
        self.fallback = np.full(n, ABSENT, np.int8)
        self.slow = np.zeros(n, np.bool_)

    def written(self) -> tuple[NDArray[Any], ...]:
        """What `scan` writes, in its order."""
        texts = self.texts, self.lengths, self.hashes
        return *texts, self.numbers, self.counts, self.enums, self.ids, self.fallback, self.slow

    def put(self, i: int, call: Any, aside: bytearray, end: int) -> None:
        """Write one call that msgspec read; its texts go into `aside`, which follows the buffer's `end`."""
        for row, name in enumerate(NAMES):
            text = _shown(name, getattr(call, name) or "").encode()
            self.texts[row, i] = end + len(aside)
            self.lengths[row, i] = len(text)
            self.hashes[row, i] = xxhash.xxh64_intdigest(text) if text else 0
            aside += text
        self.numbers[:, i] = [_whole(getattr(call, name), unit) for name, unit in zip(NUMBERS, UNITS.tolist(), strict=True)]
        self.counts[:, i] = [ABSENT if getattr(call, name) is None else getattr(call, name) for name in COUNTS]
        self.enums[0, i] = SERVICE_TIERS.index(call.service_tier or "standard")
        self.enums[1, i] = ABSENT if call.response_cache is None else RESPONSE_CACHE.index(call.response_cache)
        self.ids[:, i] = [*(_hashed(getattr(call, name)) for name in IDS[:-1]), _mixed(call.prompt_fingerprint)]
        self.fallback[i] = fell_back(call.requested_model, call.model) if call.requested_model else ABSENT


def fell_back(asked: str, model: str) -> bool:
    """Whether `model` is another one than was asked for. What providers put around a name is no difference: a prefix that
    ends in "/", and a version, which is "@" or a hyphen and two digits or more.

    >>> fell_back("openai/gpt-4o", "gpt-4o-2024-08-06"), fell_back("gemini-2.5-pro", "gemini-2.5-pro@001")
    (False, False)
    >>> fell_back("gpt-4o", "gpt-4o-mini"), fell_back("gpt-4", "gpt-4-32k"), fell_back("claude-opus-4", "claude-opus-4-1")
    (True, True, True)
    """
    asked, model = asked.rpartition("/")[2], model.rpartition("/")[2]
    return not (model.startswith(asked) and _VERSION.match(model, len(asked)))


def _hashed(text: str | None) -> int:
    return (xxhash.xxh64_intdigest(text.encode()) or 1) if text else 0


def _mixed(fingerprint: str | None) -> int:
    """XXH64's last step (`schemas.scan.avalanche`) of the value."""
    if fingerprint is None:
        return 0
    h = int(fingerprint, 16)
    for shift, prime in ((33, int(P2)), (29, int(P3)), (32, 1)):
        h = (h ^ h >> shift) * prime % 2**64
    return h or 1


def _shown(name: str, text: str) -> str:
    """What is kept of a text: a feature or an operation that cannot be shown to people is "other"."""
    return "other" if text and name in ("feature", "operation") and not _SHOWN.fullmatch(text) else text


def _whole(number: float | None, unit: float) -> int:
    """A number of which one is `unit`, rounded half up; ABSENT where unknown."""
    return ABSENT if number is None else math.floor(min(number * unit + 0.5, MOST))


def split(block: bytes, position: int = 0) -> Lines:
    """The lines of NDJSON, `\\r\\n` too; `position` is where the block begins in its source. Clocks are ABSENT."""
    buffer = np.frombuffer(block, np.uint8)
    breaks = np.flatnonzero(buffer == 10)
    start = np.concatenate([[0], breaks + 1])
    end = np.concatenate([breaks, [len(buffer)]])
    if start[-1] == len(buffer):
        start, end = start[:-1], end[:-1]
    inner = end > start
    end[inner] -= buffer[end[inner] - 1] == 13
    return Lines(buffer, start, end, start + position, np.full(len(start), ABSENT, np.int64))
