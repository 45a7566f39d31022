"""Every compiled loop of the detectors: plain functions over arrays."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from schemas.batch import NANO, RECENT, SLICE, WINDOWS

NOTHING = -1
OPEN, UPDATE, CLEAR = 0, 1, 2
COLUMNS = np.dtype(
    [
        ("born", np.int64),
        ("tenant", np.int32),
        ("open", np.bool_),
        ("burning", np.bool_),
        ("weak", np.bool_),
        ("window", np.int8),
        ("fired", np.uint8),
        ("quiet", np.int8),
        ("hot", np.uint16),
        ("last", np.int64),
        ("learnt", np.float64),
        ("expected", np.float64),
        ("started", np.int64),
        ("since", np.int64),
        ("told", np.int64),
        ("so_far", np.float64),
        ("guessed", np.float64),
        ("peak", np.float64, 5),
        ("before", np.float64, 5),
        ("now", np.float64, 5),
        ("bar", np.float64, 5),
        ("block", np.int64, 5),
        ("raised", np.int64, 5),
        ("turn", np.int64),
        ("today", np.float32, (5, 12)),
        ("habit", np.float32, (5, 12)),
    ]
)
"""One key as the money rule sees it, 812 bytes: money in nano-dollars, times in Ms, `expected` in nano-dollars a second.

`peak` is the highest window that ended before the previous block of its own length began, `before` and `now` the highest
of the previous and of this block; `learnt` the decayed sum that the mean is made of; `hot` one bit per pane of a minute.
`today` has the highest windows, unclipped, of the last 24 hours, one column for each two hours of the day; `turn` is the
number of the newest such two hours, `habit` the highest of earlier days.
"""
SETTLED_PANES = 150
"""One-minute panes, idle ones too, that a key must have been known for before it is judged by its own past."""
YOUNG = SETTLED_PANES * 60_000
WEEK = 7 * 86_400_000.0
HALF_LIFE = 30 * 86_400_000.0
HOUR = 3_600_000.0
TURN = 7_200_000
TURNS = 12
"""Two hours, and how many of them make a day."""
LASTING = 10 * TURN
"""What an episode burns is no habit while it is open after so long."""
FADE = np.float32(0.5 ** (1 / 30))
"""What is left of a habit after a day without it: a half-life of 30 days."""
OPEN_HOURS = 6.0
"""The highest window of a key that burns may double in so many hours, else in one."""
RATIO = 2.0
ACCEPTED = 0.75
"""An episode is over when its window fell below this part of the bar: the burn is the new normal."""
HOT = 50.0 * NANO / HOUR
"""Nano-dollars a millisecond over expected from which a pane counts as hot: $50/h, the least that makes a ticket."""
FIRM = 2
"""Hot panes from which a burn is more than one burst: an update says so at once, whenever the last one was."""
QUIET_PANES = 6
UPDATE_EVERY = 60_000


@njit(cache=True)
def judge_spend(rows, keys, tenants, ends, costs, guessed, windows, recent, gates, bars, verdict):  # type: ignore[no-untyped-def]
    """Score, then learn, each row of a pane; `verdict` gets NOTHING, OPEN, UPDATE or CLEAR per row."""
    for i in range(len(keys)):
        k = rows[keys[i]]
        end = ends[i]
        verdict[i] = NOTHING
        if k.born == 0:
            k.born = end - SLICE
            k.tenant = tenants[i]
            k.last = end - SLICE
            k.turn = end // TURN
            for w in range(len(WINDOWS)):
                k.block[w] = end // WINDOWS[w]
                k.raised[w] = end
        young = end - k.born < YOUNG
        _expect(k, end)
        over = costs[i] - k.expected * SLICE / 1000
        k.hot = ((np.int64(k.hot) << min((end - k.last) // SLICE, 12)) | (over >= HOT * SLICE)) & 4095
        fired = _fired(k, end, young, over, windows[i], recent[i], gates, bars[i])
        k.burning = False
        if k.open:
            half_gate = gates[k.window] / WINDOWS[k.window] / 2
            k.burning = over >= half_gate * SLICE
            short = recent[i, k.window] - k.expected * RECENT[k.window] / 1000
            still = short >= half_gate * RECENT[k.window] and windows[i, k.window] > ACCEPTED * k.bar[k.window]
            if not still and fired != 0:
                k.window = _shortest(fired)
                still = True
            k.quiet = 0 if still else k.quiet + 1
            k.so_far += over
            k.guessed += guessed[i]
            k.fired |= fired
            if k.quiet >= QUIET_PANES:
                k.open = False
                k.burning = False
                verdict[i] = CLEAR
            elif still and (
                (k.weak and _hot_panes(k) >= FIRM)
                or (end - k.told >= UPDATE_EVERY and _burnt_last_minute(k, windows[i], gates))
            ):
                k.told = end
                k.weak = _hot_panes(k) < FIRM
                verdict[i] = UPDATE
        elif fired != 0:
            w = _shortest(fired)
            k.open = True
            k.burning = True
            k.window = w
            k.fired = fired
            k.quiet = 0
            k.started = end - SLICE
            k.told = end
            k.weak = _hot_panes(k) < FIRM
            k.so_far = windows[i, w] - k.expected * WINDOWS[w] / 1000
            k.guessed = guessed[i] * k.so_far / max(costs[i], 1)
            verdict[i] = OPEN
        _learn(k, end, young, costs[i], windows[i], gates)


@njit(cache=True)
def _shortest(fired):  # type: ignore[no-untyped-def]
    w = 0
    while not (fired >> w) & 1:
        w += 1
    return w


@njit(cache=True)
def _expect(k, end):  # type: ignore[no-untyped-def]
    """Mean spend a second up to this pane: exponentially decayed over a week, corrected for the key's age."""
    before = end - SLICE
    k.learnt *= math.exp(-(before - k.last) / WEEK)
    weight = WEEK * (1 - math.exp(-max(before - k.born, HOUR) / WEEK))
    k.expected = k.learnt / weight * 1000


@njit(cache=True)
def _fired(k, end, young, over, windows, recent, gates, bars):  # type: ignore[no-untyped-def]
    """Bit w is set where window w breaks the money rule, and its twelfth and this very pane still burn at half its gate."""
    fired = 0
    _turn(k, end)
    for w in range(len(WINDOWS)):
        _roll(k, w, end)
        k.bar[w] = bars[w] if young else RATIO * max(_highest(k, w, end), _habit(k, w, end))
        excess = windows[w] - k.expected * WINDOWS[w] / 1000
        short = recent[w] - k.expected * RECENT[w] / 1000
        half_gate = gates[w] / WINDOWS[w] / 2
        burns = short >= half_gate * RECENT[w] and over >= half_gate * SLICE
        if burns and excess >= gates[w] and windows[w] > k.bar[w]:
            fired |= 1 << w
    return fired


@njit(cache=True)
def _highest(k, w, end):  # type: ignore[no-untyped-def]
    """The highest earlier window; where the key is too young for three of them, what the shorter ones would make."""
    highest = k.peak[w]
    v = w
    while v > 0 and end - k.born < 3 * WINDOWS[v]:
        v -= 1
        highest = max(highest, k.peak[v] * WINDOWS[w] / WINDOWS[v])
    return highest


@njit(cache=True)
def _turn(k, end):  # type: ignore[no-untyped-def]
    """When two hours of the day begin again, what they saw a day ago becomes habit."""
    turn = end // TURN
    for t in range(max(k.turn, turn - TURNS) + 1, turn + 1):
        for w in range(len(WINDOWS)):
            seen = np.float32(0) if _lasting(k, end) else k.today[w, t % TURNS]
            k.habit[w, t % TURNS] = max(k.habit[w, t % TURNS] * FADE, seen)
            k.today[w, t % TURNS] = 0
    k.turn = turn


@njit(cache=True)
def _lasting(k, end):  # type: ignore[no-untyped-def]
    return k.open and end - k.started >= LASTING


@njit(cache=True)
def _habit(k, w, end):  # type: ignore[no-untyped-def]
    """The highest window of earlier days about this time of day: from two to four hours earlier to as much later."""
    here = k.turn % TURNS
    after = (here + 1) % TURNS
    yesterday = np.float32(0) if _lasting(k, end) else k.today[w, after]
    return max(max(k.habit[w, here - 1], k.habit[w, here]), max(k.habit[w, after], yesterday))


@njit(cache=True)
def _roll(k, w, end):  # type: ignore[no-untyped-def]
    """Move what an older block saw into the peak."""
    block = end // WINDOWS[w]
    blocks = block - k.block[w]
    if blocks <= 0:
        return
    k.peak[w] *= 0.5 ** (blocks * WINDOWS[w] / HALF_LIFE)
    older = max(k.before[w], k.now[w]) if blocks > 1 else k.before[w]
    if older > k.peak[w]:
        k.peak[w] = older
        k.raised[w] = (k.block[w] + 1) * WINDOWS[w]
    k.before[w] = 0.0 if blocks > 1 else k.now[w]
    k.now[w] = 0.0
    k.block[w] = block


@njit(cache=True)
def _believed(k, w, end, seen, gate):  # type: ignore[no-untyped-def]
    """As much of a settled key's window as may be learnt now: the peak may at most double in a given time.

    What is a habit at this time of day only is no measure for the others. What burns is learnt slowly; windows shorter than
    those that show a burn go on as ever: they keep up with what grows, and tell it from what jumps.
    """
    known = max(k.peak[w], gate / 4)
    if not k.open and _habit(k, w, end) > RATIO * known:
        return min(seen, known)
    burns = k.open and w >= _shortest(k.fired)
    doubling = OPEN_HOURS * HOUR if burns else HOUR
    return min(seen, max(k.peak[w] * 2.0 ** min((end - k.raised[w]) / doubling, 1.0), gate / 4))


@njit(cache=True)
def _burnt_last_minute(k, windows, gates):  # type: ignore[no-untyped-def]
    over = windows[0] - k.expected * WINDOWS[0] / 1000
    return over >= gates[k.window] * WINDOWS[0] / WINDOWS[k.window] / 2


@njit(cache=True)
def _hot_panes(k):  # type: ignore[no-untyped-def]
    """How many of the last minute's panes were hot."""
    count = 0
    for bit in range(12):
        count += (k.hot >> bit) & 1
    return count


@njit(cache=True)
def _learn(k, end, young, cost, windows, gates):  # type: ignore[no-untyped-def]
    for w in range(len(WINDOWS)):
        seen = np.float64(windows[w])
        k.today[w, k.turn % TURNS] = max(k.today[w, k.turn % TURNS], np.float32(seen))
        k.now[w] = max(k.now[w], seen if young else _believed(k, w, end, seen, gates[w]))
    learn = np.float64(cost)
    if not young:
        learn = min(learn, 2 * k.expected * SLICE / 1000 if k.open else max(k.peak[0], gates[0] / 12))
    k.learnt = k.learnt * math.exp(-SLICE / WEEK) + learn
    k.last = end
