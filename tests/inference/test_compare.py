"""Runs side by side: seeds, pairing, and what must not be compared."""

import json
import statistics

import numpy as np
import pytest

from reeltag.errors import StoreError
from reeltag.inference.compare import compare
from reeltag.metrics import METRICS
from reeltag.store.scores import Scores

TARGETS = (np.random.default_rng(0).random((120, 6)) < 0.3).astype(np.uint8)


def run(skill, seed, *, shared_noise=1.0, **changes):
    """Scores whose noise is partly the same for every run, as real models fail on the same videos."""
    common = np.random.default_rng(99).standard_normal(TARGETS.shape) * shared_noise
    own = np.random.default_rng(seed).standard_normal(TARGETS.shape) * 0.3
    fields = {
        "video_ids": [f"{i:03}.mp4" for i in range(120)],
        "values": (skill * TARGETS + common + own).astype(np.float32),
        "label_names": list("abcdef"),
        "kind": "logit",
        "targets": TARGETS,
        "split": "val",
    }
    return Scores(**{**fields, **changes})


def test_means_and_spread_are_those_of_the_seeds():
    weak, strong = [run(1.0, seed) for seed in (1, 2, 3)], [run(2.0, seed) for seed in (4, 5)]
    result = compare({"weak": weak, "strong": strong}, resamples=100)
    values = [METRICS["map_macro"](scores.values, TARGETS) for scores in weak]
    assert result.groups[0].mean["map_macro"] == pytest.approx(statistics.mean(values))
    assert result.groups[0].sd["map_macro"] == pytest.approx(statistics.stdev(values))
    assert (result.groups[0].num_seeds, result.groups[1].num_seeds, result.num_videos) == (3, 2, 120)
    (difference,) = result.differences
    assert difference.value == pytest.approx(result.groups[1].mean["map_macro"] - result.groups[0].mean["map_macro"])
    assert 0 < difference.interval.low < difference.value < difference.interval.high
    assert difference.clear


def test_pairing_makes_the_interval_of_equals_narrow_around_zero():
    result = compare({"a": [run(1.0, 1)], "b": [run(1.0, 2)], "same": [run(1.0, 1)]}, resamples=200)
    against_b, against_same = result.differences
    assert against_b.interval.low < 0 < against_b.interval.high
    assert against_b.interval.high - against_b.interval.low < 0.1  # unpaired, one run's own interval is wider
    assert (against_same.value, against_same.interval.low, against_same.interval.high) == (0, 0, 0)
    assert not against_same.clear


def test_run_folders_score_files_and_other_orders_of_videos(tmp_path):
    first, second = run(1.0, 1), run(2.0, 2)
    first.write(tmp_path / "run1/scores/val.parquet")
    shuffled = second.rows([first.video_ids[i] for i in np.random.default_rng(0).permutation(120)])
    shuffled.write(tmp_path / "second.parquet")
    from_files = compare({"one": [tmp_path / "run1"], "two": [tmp_path / "second.parquet"]}, resamples=50)
    in_memory = compare({"one": [first], "two": [second]}, resamples=50)
    assert from_files.differences == in_memory.differences
    assert [group.mean for group in from_files.groups] == [group.mean for group in in_memory.groups]


def test_rows_and_json():
    result = compare({"a": [run(1.0, 1), run(1.0, 2)], "b": [run(2.0, 3)], "c": [run(3.0, 4)]}, resamples=50)
    rows = result.to_rows()
    assert rows[0] == ["metric", "a (2 seeds)", "b (1 seed)", "c (1 seed)"]
    cells = {row[0]: row[1:] for row in rows}
    mean, sd = result.groups[0].mean["gap"], result.groups[0].sd["gap"]
    assert cells["gap"][0] == f"{mean:.4f} ± {sd:.4f}"
    assert cells["gap"][1] == f"{result.groups[1].mean['gap']:.4f}"
    differences = [row for row in rows if row[0] == "map_macro - a"]
    assert [bool(cell) for cell in differences[0][1:]] == [False, True, False]
    assert differences[1][3].startswith(f"{result.differences[1].value:+.4f} [")
    assert all(len(row) == 4 for row in rows)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["groups"][1]["sd"]["gap"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_names": list("abcdeg")}, "only one has 'f'; only two has 'g'"),
        ({"video_ids": [f"{i:03}.mp4" for i in range(1, 121)]}, "two has 1 videos that one has not, first '120.mp4'"),
        ({"targets": 1 - TARGETS}, "different targets, first at video '000.mp4'"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(StoreError, match=message):
        compare({"one": [run(1.0, 1)], "two": [run(1.0, 2, **changes)]})


def test_no_truth_or_no_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match="hold no truth"):
        compare({"one": [run(1.0, 1, targets=None)]})
    with pytest.raises(StoreError, match="does not exist"):
        compare({"one": [tmp_path]})
    with pytest.raises(ValueError, match="at least one run in each"):
        compare({"one": []})
