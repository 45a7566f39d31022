"""The fast path of decoding: one pass over JSON bytes, known fields straight into columns.

What the scanner accepts, the contract accepts with the same values. Whatever it does not like (escapes, non-ASCII,
duplicate or nested fields, odd numbers, anything out of bounds) it flags for the slow path; it refuses nothing itself.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numba import njit

from schemas.batch import SERVICE_TIERS
from schemas.usage import UsageEvent, bounds

NAMES = ("tenant", "key_id", "provider", "model", "feature", "operation")
"""Texts that a vocabulary keeps, in the order of the rows of the text outputs."""
IDS = ("event_id", "request_id", "user_id", "client_ip", "session_id", "prompt_fingerprint")
"""What is kept as a hash only."""
NUMBERS = ("ts", "arrival_ts", "latency_ms", "cost_usd")
COUNTS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "web_search_requests",
    "attempt",
    "status",
)
INPUT, CACHED, WRITE, WRITE_1H, OUTPUT, REASONING, AUDIO_IN, AUDIO_OUT, *_ = range(len(COUNTS))
ENUMS = ("service_tier", "response_cache")
TEXT, COUNT, FLOAT, CHOICE, HEX, HASHED = range(6)
FIELDS = tuple(UsageEvent.model_fields)
MODEL, ASKED = NAMES.index("model"), FIELDS.index("requested_model")
MAX_LINE = 1 << 20

P1, P2, P3, P4, P5 = (
    np.uint64(p) for p in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)
ONES, HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
PLACE_OF_BYTE = np.uint64(0x0001020304050607)
"""Times 256 ** k, its highest byte is k."""
POWERS = 10.0 ** np.arange(23)
UNITS = np.array([1000.0, 1000.0, 1.0, 1e9])
"""What one of each of NUMBERS is in milliseconds, of a cost in nano-dollars."""
MOST = 2.0**61
"""A number that is larger is kept as this."""


def _table() -> tuple[np.ndarray, ...]:
    """The contract as arrays: kind, output row (-1: none), bounds and the hashes of choices, per field."""
    kinds, rows = np.zeros(len(FIELDS), np.int8), np.full(len(FIELDS), -1, np.int8)
    low, high = np.zeros(len(FIELDS)), np.zeros(len(FIELDS))
    choices = np.zeros((len(FIELDS), len(SERVICE_TIERS)), np.uint64)
    for f, name in enumerate(FIELDS):
        bound = bounds(name)
        if "enum" in bound:
            kinds[f] = CHOICE
            choices[f] = xxhash.xxh64_intdigest(bound["enum"][0].encode())
            choices[f, : len(bound["enum"])] = [xxhash.xxh64_intdigest(choice.encode()) for choice in bound["enum"]]
            rows[f] = ENUMS.index(name) if name in ENUMS else -1
        elif bound["type"] == "string":
            kinds[f] = HEX if "0-9a-fA-F" in bound.get("pattern", "") else HASHED if name in IDS else TEXT
            low[f], high[f] = bound.get("minLength", 0), bound["maxLength"]
            texts = NAMES if kinds[f] == TEXT else IDS
            rows[f] = texts.index(name) if name in texts else -1
        else:
            kinds[f] = COUNT if bound["type"] == "integer" else FLOAT
            low[f], high[f] = bound["minimum"], bound["maximum"]
            outputs = COUNTS if kinds[f] == COUNT else NUMBERS
            rows[f] = outputs.index(name) if name in outputs else -1
    return kinds, rows, low, high, choices


def _perfect_hash() -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """A multiplier under which (length, first, middle, last byte) tells all names apart, and the table it makes."""
    text = np.frombuffer("".join(FIELDS).encode(), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(name) for name in FIELDS])])
    for multiplier in range(1, 10_000):
        codes = [_code(len(n), ord(n[0]), ord(n[len(n) // 2]), ord(n[-1]), multiplier) for n in FIELDS]
        if len(set(codes)) == len(codes):
            table = np.full(1024, -1, np.int16)
            table[codes] = range(len(codes))
            return multiplier, table, text, offsets
    raise AssertionError("no perfect hash of the field names")


@njit(cache=True, inline="always")
def _code(length, first, middle, last, multiplier):  # type: ignore[no-untyped-def]  # numba infers the types
    return (length * 37 + first * 7 + middle * multiplier + last * 11) & 1023


KINDS, ROWS, LOW, HIGH, CHOICES = _table()
MULTIPLIER, PLACES, NAME_BYTES, NAME_ENDS = _perfect_hash()
REQUIRED = np.uint64(sum(1 << f for f, name in enumerate(FIELDS) if UsageEvent.model_fields[name].is_required()))


@njit(cache=True, inline="always")
def at(b, p):  # type: ignore[no-untyped-def]
    """The byte at p. Its place is unsigned: for a signed one, compiled code would allow for a negative place each time."""
    return b[np.uint64(p)]


@njit(cache=True, inline="always")
def load(b, p):  # type: ignore[no-untyped-def]
    """Eight bytes at p, little-endian; unsigned places, so that the compiler makes one load of them."""
    q = np.uint64(p)
    return (
        np.uint64(b[q])
        | np.uint64(b[q + np.uint64(1)]) << np.uint64(8)
        | np.uint64(b[q + np.uint64(2)]) << np.uint64(16)
        | np.uint64(b[q + np.uint64(3)]) << np.uint64(24)
        | np.uint64(b[q + np.uint64(4)]) << np.uint64(32)
        | np.uint64(b[q + np.uint64(5)]) << np.uint64(40)
        | np.uint64(b[q + np.uint64(6)]) << np.uint64(48)
        | np.uint64(b[q + np.uint64(7)]) << np.uint64(56)
    )


@njit(cache=True, inline="always")
def same(a, p, b, q, size):  # type: ignore[no-untyped-def]
    """Whether `size` bytes at a[p] are those at b[q]."""
    if size < 8:
        for j in range(size):
            if a[p + j] != b[q + j]:
                return False
        return True
    for j in range(0, size - 7, 8):
        if load(a, p + j) != load(b, q + j):
            return False
    return load(a, p + size - 8) == load(b, q + size - 8)


@njit(cache=True, inline="always")
def _rotl(x, r):  # type: ignore[no-untyped-def]
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@njit(cache=True, inline="always")
def _round(acc, word):  # type: ignore[no-untyped-def]
    return _rotl(acc + word * P2, 31) * P1


@njit(cache=True)
def xxh64(b, p, e):  # type: ignore[no-untyped-def]
    """XXH64 (Cyan4973/xxHash specification, seed 0) of b[p:e]."""
    length = np.uint64(e - p)
    if e - p >= 32:
        v1, v2, v3, v4 = P1 + P2, P2, np.uint64(0), np.uint64(0) - P1
        while p + 32 <= e:
            v1 = _round(v1, load(b, p))
            v2 = _round(v2, load(b, p + 8))
            v3 = _round(v3, load(b, p + 16))
            v4 = _round(v4, load(b, p + 24))
            p += 32
        h = _rotl(v1, 1) + _rotl(v2, 7) + _rotl(v3, 12) + _rotl(v4, 18)
        for v in (v1, v2, v3, v4):
            h = (h ^ _round(np.uint64(0), v)) * P1 + P4
    else:
        h = P5
    h += length
    while p + 8 <= e:
        h = _rotl(h ^ _round(np.uint64(0), load(b, p)), 27) * P1 + P4
        p += 8
    if p + 4 <= e:
        word = np.uint64(b[p]) | np.uint64(b[p + 1]) << np.uint64(8)
        word |= np.uint64(b[p + 2]) << np.uint64(16) | np.uint64(b[p + 3]) << np.uint64(24)
        h = _rotl(h ^ word * P1, 23) * P2 + P3
        p += 4
    while p < e:
        h = _rotl(h ^ np.uint64(b[p]) * P5, 11) * P1
        p += 1
    return avalanche(h)


@njit(cache=True, inline="always")
def avalanche(h):  # type: ignore[no-untyped-def]
    """XXH64's last step: one to one, and every bit depends on all."""
    h = (h ^ (h >> np.uint64(33))) * P2
    h = (h ^ (h >> np.uint64(29))) * P3
    return h ^ (h >> np.uint64(32))


@njit(cache=True, inline="always")
def _plain_end(b, p, e):  # type: ignore[no-untyped-def]
    """The first byte at or after p that is no plain ASCII text: quote, backslash, control, DEL, non-ASCII; or e."""
    while p + 8 <= e:
        w = load(b, p)
        quote = w ^ (ONES * np.uint64(34))
        slash = w ^ (ONES * np.uint64(92))
        delete = w ^ (ONES * np.uint64(127))
        odd = ((quote - ONES) & ~quote) | ((slash - ONES) & ~slash) | ((delete - ONES) & ~delete)
        odd |= ((w - ONES * np.uint64(32)) & ~w) | w
        odd &= HIGHS
        if odd:
            lowest = (odd & (~odd + np.uint64(1))) >> np.uint64(7)
            return p + np.int64(lowest * PLACE_OF_BYTE >> np.uint64(56))
        p += 8
    while p < e and at(b, p) >= 32 and at(b, p) < 127 and at(b, p) != 34 and at(b, p) != 92:
        p += 1
    return p


@njit(cache=True)
def scan(b, starts, ends, texts, lengths, hashes, numbers, counts, enums, ids, fallback, slow):  # type: ignore[no-untyped-def]
    """Fill the columns for every line; `slow[i]` says that line i is for the slow path (its columns mean nothing).

    `texts`, `lengths`, `hashes` have a row for each of NAMES, `numbers` (in UNITS) of NUMBERS, `counts` of COUNTS,
    `enums` of ENUMS, `ids` of IDS, all of n columns; absent stays as it is, and so does the hash of an empty text.
    """
    for i in range(len(starts)):
        slow[i] = not _scan_line(b, starts[i], ends[i], i, texts, lengths, hashes, numbers, counts, enums, ids, fallback)


@njit(cache=True)
def _scan_line(b, p, e, i, texts, lengths, hashes, numbers, counts, enums, ids, fallback):  # type: ignore[no-untyped-def]
    if e - p > MAX_LINE or p >= e or at(b, p) != 123:
        return False
    p += 1
    seen = np.uint64(0)
    asked = asked_end = np.int64(0)
    while True:
        while p < e and (at(b, p) == 32 or at(b, p) == 9):
            p += 1
        if p >= e or at(b, p) != 34:
            return False
        name = p + 1
        p = _plain_end(b, name, e)
        if p >= e or at(b, p) != 34:
            return False
        size = p - name
        f = -1
        if size > 0:
            f = PLACES[
                _code(size, np.int64(at(b, name)), np.int64(at(b, name + size // 2)), np.int64(at(b, p - 1)), MULTIPLIER)
            ]
            if f >= 0:
                if NAME_ENDS[f + 1] - NAME_ENDS[f] != size or not same(b, name, NAME_BYTES, NAME_ENDS[f], size):
                    f = -1
        p += 1
        while p < e and (at(b, p) == 32 or at(b, p) == 9):
            p += 1
        if p >= e or at(b, p) != 58:
            return False
        p += 1
        while p < e and (at(b, p) == 32 or at(b, p) == 9):
            p += 1
        if p >= e:
            return False
        if f >= 0:
            bit = np.uint64(1) << np.uint64(f)
            if seen & bit:
                return False
            seen |= bit
        c = at(b, p)
        if c == 34:
            start = p + 1
            p = _plain_end(b, start, e)
            if p >= e or at(b, p) != 34:
                return False
            if f >= 0 and not _text(b, start, p, f, i, texts, lengths, hashes, enums, ids):
                return False
            if f == ASKED:
                asked, asked_end = start, p
            p += 1
        elif c == 45 or (c >= 48 and c <= 57):
            negative = c == 45
            if negative:
                p += 1
            first = p
            mantissa = np.int64(0)
            while p < e and at(b, p) >= 48 and at(b, p) <= 57:
                mantissa = mantissa * 10 + (at(b, p) - 48)
                p += 1
            digits = p - first
            if digits == 0 or (digits > 1 and at(b, first) == 48) or digits > 18:
                return False
            decimals = 0
            if p < e and at(b, p) == 46:
                p += 1
                point = p
                while p < e and at(b, p) >= 48 and at(b, p) <= 57:
                    mantissa = mantissa * 10 + (at(b, p) - 48)
                    p += 1
                decimals = p - point
                if decimals == 0 or digits + decimals > 18:
                    return False
            if p < e and (at(b, p) == 101 or at(b, p) == 69):
                power = p + 2
                if power >= e or at(b, p + 1) != 45:
                    return False
                p, exponent = power, 0
                while p < e and p < power + 3 and at(b, p) >= 48 and at(b, p) <= 57:
                    exponent = exponent * 10 + (at(b, p) - 48)
                    p += 1
                decimals += exponent
                if not exponent or decimals >= len(POWERS):
                    return False
            if f >= 0:
                if negative or mantissa > 9007199254740992:
                    return False
                if KINDS[f] == COUNT:
                    if decimals or mantissa > HIGH[f]:
                        return False
                    if ROWS[f] >= 0:
                        counts[ROWS[f], i] = mantissa
                elif KINDS[f] == FLOAT:
                    x = mantissa / POWERS[decimals]
                    if x > HIGH[f]:
                        return False
                    if ROWS[f] >= 0:
                        numbers[ROWS[f], i] = np.int64(np.floor(min(x * UNITS[ROWS[f]] + 0.5, MOST)))
                else:
                    return False
        elif c == 110 and p + 4 <= e and at(b, p + 1) == 117 and at(b, p + 2) == 108 and at(b, p + 3) == 108:
            p += 4
            if f >= 0:
                if REQUIRED & (np.uint64(1) << np.uint64(f)):
                    return False
        else:
            return False
        while p < e and (at(b, p) == 32 or at(b, p) == 9):
            p += 1
        if p >= e:
            return False
        if at(b, p) == 44:
            p += 1
            continue
        if at(b, p) != 125 or p + 1 != e or seen & REQUIRED != REQUIRED:
            return False
        if asked_end > asked:
            model = texts[MODEL, i]
            fallback[i] = _fell_back(b, asked, asked_end, model, model + lengths[MODEL, i])
        return _parts_fit(counts, i)


@njit(cache=True, inline="always")
def _text(b, start, end, f, i, texts, lengths, hashes, enums, ids):  # type: ignore[no-untyped-def]
    if KINDS[f] == TEXT or KINDS[f] == HASHED:
        if end - start < LOW[f] or end - start > HIGH[f]:
            return False
        if KINDS[f] == HASHED:
            if end > start:
                ids[ROWS[f], i] = max(xxh64(b, start, end), np.uint64(1))
            return True
        if ROWS[f] >= 0:
            texts[ROWS[f], i] = start
            lengths[ROWS[f], i] = end - start
            if end > start:
                hashes[ROWS[f], i] = xxh64(b, start, end)
        return True
    if KINDS[f] == HEX:
        if end == start or end - start > HIGH[f]:
            return False
        valid, value = _hex(b, start, end)
        if ROWS[f] >= 0:
            ids[ROWS[f], i] = max(avalanche(value), np.uint64(1))
        return valid
    if KINDS[f] == CHOICE:
        h = xxh64(b, start, end)
        for choice in range(CHOICES.shape[1]):
            if CHOICES[f, choice] == h:
                if ROWS[f] >= 0:
                    enums[ROWS[f], i] = choice
                return True
    return False


@njit(cache=True, inline="always")
def _hex(b, start, end):  # type: ignore[no-untyped-def]
    """Whether 1 to 16 bytes of plain text, with as many before them, are all hex digits; and their value."""
    size = end - start
    valid, value = _digits(load(b, end - 8), min(size, 8))
    if size > 8:
        high_valid, high = _digits(load(b, end - 16), size - 8)
        valid, value = valid and high_valid, value | high << np.uint64(32)
    return valid, value


@njit(cache=True, inline="always")
def _digits(w, size):  # type: ignore[no-untyped-def]
    """`_hex` of the last `size` of eight plain bytes."""
    kept = ~np.uint64(0) << np.uint64(64 - 8 * size)
    x = w & kept | ONES * np.uint64(48) & ~kept | ONES * np.uint64(32)
    figure = (x + ONES * np.uint64(128 - 48)) & ~(x + ONES * np.uint64(128 - 58))
    letter = (x + ONES * np.uint64(128 - 97)) & ~(x + ONES * np.uint64(128 - 103))
    x = (x & ONES * np.uint64(15)) + (x >> np.uint64(6) & ONES) * np.uint64(9)
    x = (x << np.uint64(4) | x >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    x = (x << np.uint64(8) | x >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    x = (x << np.uint64(16) | x >> np.uint64(32)) & np.uint64(0xFFFFFFFF)
    return (figure | letter) & HIGHS == HIGHS, x


@njit(cache=True)
def _fell_back(b, asked, asked_end, model, model_end):  # type: ignore[no-untyped-def]
    """`schemas.decode.fell_back` of the texts b[asked:asked_end] and b[model:model_end]."""
    if asked_end - asked == model_end - model and same(b, asked, b, model, asked_end - asked):
        return False
    asked, model = _after_slash(b, asked, asked_end), _after_slash(b, model, model_end)
    p = model + asked_end - asked
    if p > model_end or not same(b, asked, b, model, asked_end - asked):
        return True
    if p == model_end or at(b, p) == 64:
        return False
    digits = p + 1
    if at(b, p) != 45:
        return True
    p = digits
    while p < model_end and at(b, p) >= 48 and at(b, p) <= 57:
        p += 1
    return p - digits < 2 or (p < model_end and at(b, p) != 45)


@njit(cache=True, inline="always")
def _after_slash(b, start, end):  # type: ignore[no-untyped-def]
    p = end
    while p > start and at(b, p - 1) != 47:
        p -= 1
    return p


@njit(cache=True, inline="always")
def _parts_fit(counts, i):  # type: ignore[no-untyped-def]
    cached, write, total = max(counts[CACHED, i], 0), max(counts[WRITE, i], 0), counts[INPUT, i]
    writes = write if counts[WRITE, i] >= 0 else total - cached
    return (
        np.int64(cached) + write <= total
        and counts[WRITE_1H, i] <= writes
        and counts[AUDIO_IN, i] <= total
        and max(counts[REASONING, i], counts[AUDIO_OUT, i]) <= counts[OUTPUT, i]
    )
