"""The benchmark's scorer against examples worked by hand, and the benchmark on a folder of two files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.nab import OFF, PROFILES, Outcome, Rows, Series, Window, detected, main, outcome
from detectors import mix
from schemas.signals import identity
from stream.assembly import Assembly, pane_detectors
from stream.columns import MOST_KEYS
from stream.grace import RULE
from stream.pricing import PriceBook

STEP = 300
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def file(windows: list[tuple[int, int]], points: int = 200) -> Series:
    """The first 30 of 200 points are not scored."""
    return Series("file", [n * STEP * 1000 for n in range(points)], [0.0] * points, [Window(*ends) for ends in windows])


def scores(found: Outcome) -> list[float]:
    return [found.score(PROFILES[name]) for name in ("standard", "low FP", "low FN")]


def scored(alarms: Rows) -> list[float]:
    """One file with one window of ten points, 100 to 109."""
    return scores(outcome([file([(100, 109)])], [alarms]))


def test_perfection_is_100_and_silence_0() -> None:
    corpus = [file([(60, 69), (120, 139)]), file([(50, 59)]), file([])]
    assert scores(outcome(corpus, [[60, 120], [50], []])) == pytest.approx([100, 100, 100])
    assert scores(outcome(corpus, [[], [], []])) == [0, 0, 0]


def test_a_false_alarm_costs_its_weight_and_misses_count_double_where_they_matter() -> None:
    assert scored([40]) == pytest.approx([100 * -0.11 / 2, 100 * -0.22 / 2, 100 * -0.11 / 3])
    half = outcome([file([(60, 69), (120, 139)])], [[60]])
    assert scores(half) == pytest.approx([50, 50, 50])
    assert scored([100, 40, 41]) == pytest.approx([100 - 11, 100 - 22, 100 - 22 / 3])


def test_a_late_hit_is_worth_less_and_only_the_first_counts() -> None:
    """At the last of ten points: sigmoid(-0.1) / sigmoid(-1) = 0.244919 / 0.986614 = 0.248242 of a hit."""
    assert scored([109]) == pytest.approx([62.4121, 62.4121, 74.9414], abs=1e-4)
    assert scored([100, 103, 109]) == pytest.approx([100, 100, 100])


def test_a_false_alarm_close_behind_a_window_costs_less_until_three_widths() -> None:
    """One point behind a window of ten: sigmoid(1/9) = -0.270856; two widths: -0.999909; beyond three: -1."""
    assert scored([100, 110])[0] == pytest.approx(100 - 100 * 0.11 * 0.270856 / 2, abs=1e-4)
    assert scored([100, 127])[0] == pytest.approx(100 - 100 * 0.11 * 0.999909 / 2, abs=1e-4)
    assert scored([100, 137])[0] == pytest.approx(100 - 100 * 0.11 / 2, abs=1e-9)
    both = outcome([file([(60, 69), (120, 139)])], [[60, 70, 120, 141]])
    assert both.score(PROFILES["standard"]) == pytest.approx(100 - 100 * 0.11 * (0.270856 + 0.257247) / 4, abs=1e-4)


def test_probation_is_not_scored() -> None:
    corpus = [file([(5, 14), (25, 34), (100, 109)])]
    assert outcome(corpus, [[]]).windows == 2
    assert scores(outcome(corpus, [[2, 7, 20, 29]])) == [0, 0, 0]
    assert outcome(corpus, [[30]]).hits == 1
    long = file([(800, 899)], points=10_000)
    assert [outcome([long], [[row]]).false for row in (749, 750)] == [0, 1]


def written(folder: Path, labels: str) -> Path:
    """A calm file, below zero too, and one that jumps to eight times its habit at point 900 of 2,000."""
    jumps = [40.0 if 900 <= n < 905 else 5.0 for n in range(2000)]
    windows = {"a/jumps.csv": [[_stamp(890), _stamp(930)]], "a/calm.csv": []}
    for name, values in (("jumps", jumps), ("calm", [-3.0, 2.0] * 1000)):
        path = folder / "data" / "a" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("timestamp,value\n" + "".join(f"{_stamp(n)[:19]},{v}\n" for n, v in enumerate(values)))
    (folder / labels).parent.mkdir(exist_ok=True)
    (folder / labels).write_text(json.dumps(windows))
    return folder


def _stamp(point: int) -> str:
    return (BEGIN + timedelta(seconds=point * STEP)).strftime("%Y-%m-%d %H:%M:%S.000000")


def ran(folder: Path) -> Result:
    return CliRunner().invoke(main, [str(folder)])


@pytest.mark.parametrize("labels", ["combined_windows.json", "labels/combined_windows.json"])
def test_a_jump_is_found_and_the_last_line_says_the_scores(tmp_path: Path, labels: str) -> None:
    lines = ran(written(tmp_path, labels)).output.splitlines()
    found = outcome([file([(890, 930)], 2000)], [[900]])
    assert lines[-1] == "NAB " + " ".join(f"{score:.1f}" for score in scores(found))
    assert [line.split()[0] for line in lines[3:-1]] == ["silence", "every", "out", "chance,", "burnguard"]
    assert lines[-2].split()[-2:] == ["1", "0"]


def test_nothing_is_known_before_it_happens() -> None:
    values = [5.0, 6.0, 4.0] * 200 + [60.0] * 5 + [5.0] * 95 + [90.0] * 100
    whole = Series("whole", [n * STEP * 1000 for n in range(len(values))], values, [])
    part = Series("part", whole.at[:700], values[:700], [])
    assert [row for row in detected(whole) if row < 700] == detected(part)
    assert 600 in detected(part)


def test_the_detectors_are_the_pipelines_and_other_gates_make_another_config() -> None:
    configs = [
        identity(PriceBook([]).version, RULE, mix.RULE, f"keys {MOST_KEYS}", *(detector.config for detector in made))
        for made in (pane_detectors(), pane_detectors(gates_usd=OFF))
    ]
    assert configs[0] == Assembly([]).config
    assert configs[1] != configs[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("combined_windows.json", None, "has no combined_windows.json"),
        ("combined_windows.json", '{"a/calm.csv": []}', "names no window"),
        ("data/a/calm.csv", None, "calm.csv: "),
        ("data/a/calm.csv", "timestamp,value\n2026-03-01 00:00:00,nan\n", "no number"),
        ("data/a/jumps.csv", "timestamp,value\n2026-03-01 00:00:00,1\n", "is not in list"),
        ("data/a/jumps.csv", "timestamp,value\nyesterday,1\n", "yesterday"),
    ],
)
def test_a_folder_that_is_none_is_told(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = written(tmp_path, "combined_windows.json") / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    result = ran(tmp_path)
    assert result.exit_code == 1
    assert said in result.output or said in str(result.exception)
