"""Average precision against scikit-learn, and by hand where scikit-learn counts otherwise."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import label_ranks, video_ranks
from reeltag.metrics.pairs import Pairs, pairs_of


def oracle(scores, targets, average):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns on labels without positives, and counts them as 0
        return average_precision_score(targets, scores, average=average)


def test_per_label_equals_scikit_learn(case):
    scores, targets = case
    ours = label_ranks(pairs_of(scores, targets)).average_precision
    filled = targets.any(axis=0)
    theirs = [oracle(scores[:, i], targets[:, i], None) for i in np.flatnonzero(filled)]
    np.testing.assert_allclose(ours[filled], theirs, rtol=1e-12)
    assert np.isnan(ours[~filled]).all()


def test_per_video_equals_scikit_learn(case):
    scores, targets = case
    ours = video_ranks(pairs_of(scores, targets)).average_precision
    filled = targets.any(axis=1)
    theirs = [oracle(scores[i], targets[i], None) for i in np.flatnonzero(filled)]
    np.testing.assert_allclose(ours[filled], theirs, rtol=1e-12)
    assert np.isnan(ours[~filled]).all()


@pytest.mark.parametrize(("name", "average"), [("map_micro", "micro"), ("gap", "micro"), ("map_weighted", "weighted")])
def test_micro_and_weighted_equal_scikit_learn(name, average, case):
    scores, targets = case
    assert METRICS[name](scores, targets) == pytest.approx(oracle(scores, targets, average), rel=1e-12)


@pytest.mark.parametrize(("name", "average", "axis"), [("map_macro", "macro", 0), ("map_samples", "samples", 1)])
def test_means_differ_from_scikit_learn_by_the_empty_ones_alone(name, average, axis, case):
    scores, targets = case
    if average == "samples" and scores.shape[1] == 1:
        pytest.skip("scikit-learn reads one column as a binary task and averages nothing")
    share = targets.any(axis=axis).mean()
    assert METRICS[name](scores, targets) * share == pytest.approx(oracle(scores, targets, average), rel=1e-12)


def test_three_videos_by_hand():
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 0.3], [0.7, 0.3, 0.3]])
    targets = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    # label 0: positives at ranks 2 and 3 -> (1/2 + 2/3) / 2; label 1: rank 3 -> 1/3; label 2: all tie -> 1/3
    np.testing.assert_allclose(label_ranks(pairs_of(scores, targets)).average_precision, [7 / 12, 1 / 3, 1 / 3])
    assert METRICS["map_macro"](scores, targets) == pytest.approx((7 / 12 + 1 / 3 + 1 / 3) / 3)
    assert METRICS["map_weighted"](scores, targets) == pytest.approx((2 * 7 / 12 + 1 / 3 + 1 / 3) / 4)
    # video 0: labels at ranks 2 and 3 of (.9, .3, .1) -> 7/12; videos 1 and 2: rank 1 -> 1
    assert METRICS["map_samples"](scores, targets) == pytest.approx((7 / 12 + 1 + 1) / 3)


def test_best_f1_and_its_threshold_by_brute_force(draw):
    scores, targets = draw(80, 6, levels=4, seed=5)
    ranks = label_ranks(pairs_of(scores, targets))
    for label in range(6):
        column, truth = scores[:, label], targets[:, label]
        f1 = {t: 2 * (truth & (column >= t)).sum() / (truth.sum() + (column >= t).sum()) for t in np.unique(column)}
        assert ranks.best_f1[label] == pytest.approx(max(f1.values()), rel=1e-12)
        best = max(t for t, value in f1.items() if value == max(f1.values()))
        assert ranks.best_threshold[label] == best


def test_infinite_scores_rank_first_and_last():
    scores = np.array([[np.inf], [0.0], [-np.inf], [1.0]])
    assert METRICS["map_macro"](scores, np.array([[1], [0], [0], [1]])) == 1.0
    assert METRICS["map_macro"](scores, np.array([[0], [0], [1], [0]])) == 0.25


@pytest.mark.parametrize("max_pairs", [1, 40, 1000])
def test_blocks_do_not_change_a_digit(monkeypatch, max_pairs, draw):
    scores, targets = draw(50, 13, levels=5)
    ignore = np.random.default_rng(0).random(scores.shape) < 0.1
    names = ["map_micro", "map_samples", "hit_at_1", "top_5"]
    whole = [METRICS[name](scores, targets, ignore=ignore) for name in names]
    rows = Pairs.row_blocks
    monkeypatch.setattr(Pairs, "row_blocks", lambda self, _=0: rows(self, max_pairs))
    monkeypatch.setattr("reeltag.metrics.average_precision._GATHER_PAIRS", max_pairs)
    assert [METRICS[name](scores, targets, ignore=ignore) for name in names] == pytest.approx(whole, rel=1e-12)
