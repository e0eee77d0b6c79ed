"""Expected calibration error: its bins, ties, and what it says of calibrated and of overconfident scores."""

import numpy as np
import pytest

from reeltag.metrics import METRICS
from reeltag.metrics.calibration import label_calibration_errors
from reeltag.metrics.pairs import pairs_of


def by_hand(probability, truth, num_bins):
    order = np.argsort(probability)
    parts = np.array_split(order, min(num_bins, len(order)))
    return sum(abs(probability[p].mean() - truth[p].mean()) * len(p) for p in parts) / len(order)


@pytest.mark.parametrize("num_videos", [4, 15, 150])
def test_equals_the_bins_by_hand(num_videos):
    generator = np.random.default_rng(0)
    probability = generator.random((num_videos, 3))
    truth = generator.random((num_videos, 3)) < probability
    truth[0], truth[:, 2] = True, False  # the last label has no positive
    found = label_calibration_errors(pairs_of(probability, truth))
    expected = [by_hand(probability[:, i], truth[:, i], 15) for i in range(2)]
    assert found[:2].tolist() == pytest.approx(expected, rel=1e-12)
    assert np.isnan(found[2])
    assert METRICS["ece"](probability, truth) == pytest.approx(np.mean(expected), rel=1e-12)


def test_calibrated_scores_are_near_zero_and_overconfident_ones_far():
    generator = np.random.default_rng(1)
    logits = generator.standard_normal((20_000, 2))
    truth = generator.random(logits.shape) < 1 / (1 + np.exp(-logits))
    assert METRICS["ece"](logits, truth) < 0.015
    promised, real = 1 / (1 + np.exp(-4 * logits)), 1 / (1 + np.exp(-logits))
    assert METRICS["ece"](4 * logits, truth) == pytest.approx(np.abs(promised - real).mean(), abs=0.01)


def test_equal_scores_do_not_depend_on_the_order_of_videos():
    probability = np.repeat([0.2, 0.8], 10)[:, None]
    truth = np.array([1] * 4 + [0] * 6 + [1] * 5 + [0] * 5)[:, None]
    value = METRICS["ece"](probability, truth)
    assert value == pytest.approx((0.2 + 0.3) / 2, rel=1e-12)
    shuffled = np.random.default_rng(2).permutation(20)
    assert METRICS["ece"](probability[shuffled], truth[shuffled]) == pytest.approx(value, rel=1e-12)


def test_the_most_extreme_logits_are_certain():
    logits, truth = np.array([[np.inf], [1e4], [-1e4], [-np.inf]]), np.array([[1], [1], [0], [0]])
    assert METRICS["ece"](logits, truth) == 0
    assert METRICS["ece"](-logits, truth) == 1
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        METRICS["ece"](logits, truth, num_bins=0)
