"""What every registered metric promises, unasked."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from reeltag.metrics import LOWER_IS_BETTER, METRICS
from reeltag.metrics.pairs import pairs_of

NAMES = list(METRICS)
THE_TEN = [
    *("gap", "gap_at_20", "hit_at_1", "hit_at_5", "map_macro", "map_micro", "map_samples", "map_weighted"),
    *("top_1", "top_5"),
]
BEST_THREE = ["cf1", "cp_at_3", "cr_at_3", "of1", "op_at_3", "or_at_3"]
OF_DECISIONS = ["ece", "f1_macro", "f1_micro", "f1_samples", "hamming", "subset_accuracy"]


def test_the_names_of_the_contract_are_registered():
    of_videos = ["coverage", "lrap", "one_error", "perr", "ranking_loss"]
    assert set(NAMES) == {*THE_TEN, *BEST_THREE, *OF_DECISIONS, *of_videos}


@pytest.mark.parametrize("name", NAMES)
def test_order_of_videos_and_of_labels_does_not_matter(name, case):
    scores, targets = case
    rows, columns = (
        np.random.default_rng(1).permutation(len(scores)),
        np.random.default_rng(2).permutation(scores.shape[1]),
    )
    value = METRICS[name](scores, targets)
    assert isinstance(value, float)
    assert METRICS[name](scores[rows][:, columns], targets[rows][:, columns]) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_numpy_torch_and_layout_agree_bit_for_bit(name, case):
    scores, targets = case
    value = METRICS[name](scores, targets)
    assert METRICS[name](torch.from_numpy(scores), torch.from_numpy(targets)) == value
    assert METRICS[name](np.asfortranarray(scores), targets.astype(np.int64)) == value
    assert METRICS[name](torch.from_numpy(scores).requires_grad_(), torch.from_numpy(targets).float()) == value


@pytest.mark.parametrize("name", NAMES)
def test_perfect_scores_are_the_best_and_inverted_ones_worse(name, draw):
    _, targets = draw(50, 30, density=0.3)
    targets[:, 0], targets[0, :2] = False, True
    targets[-1] = False  # a video without labels
    best = METRICS[name](targets.astype(np.float64), targets)
    worst = METRICS[name](1.0 - targets, targets)
    if name in LOWER_IS_BETTER:
        assert best < worst
    elif name in BEST_THREE:  # three labels a video are neither all of its own nor only its own
        assert best > worst
    else:
        assert best == 1.0 > worst, f"{name}: {best}"


@pytest.mark.parametrize("name", [*THE_TEN, *BEST_THREE])
def test_only_the_order_of_the_scores_counts(name, case):
    scores, targets = case
    value = METRICS[name](scores, targets)
    other = METRICS[name](np.exp(scores.astype(np.float64)) * 3 - 7, targets)
    assert other == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_ignored_pair_can_hold_anything(name, draw):
    scores, targets = draw(60, 4 if name == "subset_accuracy" else 25)
    ignore = np.random.default_rng(3).random(scores.shape) < 0.15
    value = METRICS[name](scores, targets, ignore=ignore)
    assert value != METRICS[name](scores, targets)
    for junk_score, junk_target in ((99.0, False), (-99.0, True), (99.0, True)):
        other_scores, other_targets = np.where(ignore, junk_score, scores), np.where(ignore, junk_target, targets)
        assert METRICS[name](other_scores, other_targets, ignore=ignore) == value
    assert METRICS[name](scores, targets, ignore=np.zeros_like(ignore)) == METRICS[name](scores, targets)


@pytest.mark.parametrize("name", NAMES)
def test_a_wholly_ignored_video_is_as_good_as_absent(name, draw):
    scores, targets = draw(30, 25)
    ignore = np.zeros_like(targets)
    ignore[7] = True
    left = np.delete(scores, 7, axis=0), np.delete(targets, 7, axis=0)
    assert METRICS[name](scores, targets, ignore=ignore) == pytest.approx(METRICS[name](*left), rel=1e-12)


@pytest.mark.parametrize("name", OF_DECISIONS)
def test_logits_and_their_probabilities_give_one_value(name, draw):
    scores, targets = draw(60, 5)
    probabilities = 1 / (1 + np.exp(-scores))
    assert METRICS[name](probabilities, targets) == pytest.approx(METRICS[name](scores, targets), rel=1e-12)
    small = (probabilities + 1) / 3  # logits that lie in [0, 1] must be called so
    as_logits = METRICS[name](pairs_of(small, targets, kind="logit"), targets)
    assert as_logits == pytest.approx(METRICS[name](1 / (1 + np.exp(-small)), targets), rel=1e-12)
    assert as_logits != METRICS[name](small, targets)


@pytest.mark.parametrize("name", sorted({*THE_TEN, *BEST_THREE, *OF_DECISIONS} - {"hamming", "subset_accuracy"}))
def test_without_any_positive_the_value_is_nan(name):
    assert math.isnan(METRICS[name](np.ones((4, 3)), np.zeros((4, 3))))


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused_with_its_value(name, draw):
    scores, targets = draw(6, 4)
    broken = scores.copy()
    broken[2, 3] = np.nan
    with pytest.raises(ValueError, match="video 2, label 3 is NaN"):
        METRICS[name](broken, targets)
    with pytest.raises(ValueError, match=r"\(6, 4\) and \(6, 3\)"):
        METRICS[name](scores, targets[:, :3])
    with pytest.raises(ValueError, match="0 or 1, got 2"):
        METRICS[name](scores, targets * 2)


def test_half_precision_is_read_as_its_exact_values(draw):
    scores, targets = draw(40, 9)
    half = torch.from_numpy(scores).to(torch.bfloat16)
    assert METRICS["map_macro"](half, targets) == METRICS["map_macro"](half.double(), targets)
    assert METRICS["map_macro"](scores.astype(np.float16), targets) == METRICS["map_macro"](
        scores.astype(np.float16).astype(np.float64), targets
    )


def test_work_is_shared_but_input_stays_as_it_was(draw):
    scores, targets = draw(20, 5)
    before = scores.copy()
    pairs = pairs_of(scores, targets)
    calls = []

    def compute(_):
        calls.append(1)
        return 7

    assert (pairs.once(compute), pairs.once(compute), len(calls)) == (7, 7, 1)
    for name in NAMES:
        METRICS[name](pairs, targets)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("name", ["map_macro", "map_samples", "hit_at_1"])
@pytest.mark.parametrize("ignoring", [False, True])
def test_memory_beyond_the_input_stays_under_16_mib(name, ignoring):
    generator = np.random.default_rng(0)
    scores = generator.random((150_000, 100), dtype=np.float32)  # 57 MiB
    targets = generator.random(scores.shape, dtype=np.float32) < 0.02
    ignore = targets & (scores < 0.1) if ignoring else None
    METRICS[name](scores[:9], targets[:9])
    tracemalloc.start()
    METRICS[name](scores, targets, ignore=ignore)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
