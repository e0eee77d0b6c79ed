"""Metrics over folds."""

import math

import numpy as np
import pytest

from reeltag.metrics import METRICS
from reeltag.metrics.folds import k_fold_accuracy, over_folds


def test_three_folds_by_hand():
    scores = np.eye(3)[[0, 1, 2, 0, 1, 1]]  # predicted classes
    classes = np.array([0, 1, 0, 0, 2, 1])  # right, right, wrong, right, wrong, right
    found = k_fold_accuracy(scores, classes, np.array([1, 1, 1, 2, 2, 5]))
    assert found.values == {1: pytest.approx(2 / 3), 2: 0.5, 5: 1.0}
    assert found.mean == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)  # not 4/6, the accuracy over all videos
    assert found.sd == pytest.approx(np.std([2 / 3, 1 / 2, 1], ddof=1))


def test_any_metric_of_a_fold_is_that_of_its_videos_alone(draw):
    scores, targets = draw(40, 8, density=0.3)
    folds, ignore = np.arange(40) % 4, np.random.default_rng(0).random((40, 8)) < 0.1
    found = over_folds("map_macro", scores, targets, folds, ignore=ignore)
    expected = [METRICS["map_macro"](scores[f::4], targets[f::4], ignore=ignore[f::4]) for f in range(4)]
    assert list(found.values.values()) == expected
    assert found.mean == pytest.approx(np.mean(expected))


def test_a_fold_on_which_the_metric_is_not_defined_is_left_out():
    found = over_folds("hit_at_1", np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1, 0], [0, 0]]), np.array([0, 1]))
    assert found.values[0] == found.mean == 1.0
    assert math.isnan(found.values[1])
    assert math.isnan(found.sd)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"folds must be \(2,\)"):
        over_folds("top_1", np.eye(2), np.eye(2), np.array([0]))
    with pytest.raises(ValueError, match=r"classes must be in \[0, 2\), got 0 to 2"):
        k_fold_accuracy(np.eye(2), np.array([0, 2]), np.array([0, 0]))
