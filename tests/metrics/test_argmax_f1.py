"""F1 of the best class, and the bootstrap interval."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from reeltag.metrics.argmax_f1 import argmax_f1, argmax_f1_interval
from reeltag.metrics.interval import bootstrap_interval


def draw(num_rows=80):
    generator = np.random.default_rng(0)
    truth = generator.integers(4, size=num_rows)
    return generator.standard_normal((num_rows, 4)) + 2 * np.eye(4)[truth], truth


def test_equals_scikit_learn():
    scores, truth = draw()
    result = argmax_f1(scores, truth)
    np.testing.assert_allclose(result.per_class, f1_score(truth, scores.argmax(1), average=None), rtol=1e-12)
    assert result.macro == pytest.approx(f1_score(truth, scores.argmax(1), average="macro"), rel=1e-12)
    assert result.confusion.sum() == 80
    assert result.confusion[2, 1] == ((truth == 2) & (scores.argmax(1) == 1)).sum()


def test_a_class_that_never_occurs_is_left_out():
    result = argmax_f1(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1]))
    np.testing.assert_array_equal(result.per_class, [1, 1, np.nan])
    assert result.macro == 1


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.ones((2, 3)), np.array([0, 3]), r"\[0, 3\), got 0 to 3"),
        (np.ones((2, 3)), np.array([0]), r"got \(2, 3\) and \(1,\)"),
        (np.full((1, 3), np.nan), np.array([0]), "NaN"),
    ],
)
def test_bad_input_is_refused(scores, truth, message):
    with pytest.raises(ValueError, match=message):
        argmax_f1(scores, truth)


def test_interval_holds_the_value_and_repeats():
    scores, truth = draw()
    interval = argmax_f1_interval(scores, truth, resamples=200)
    assert interval.low < argmax_f1(scores, truth).macro < interval.high
    assert interval == argmax_f1_interval(scores, truth, resamples=200)
    assert interval != argmax_f1_interval(scores, truth, resamples=200, seed=1)


def test_interval_of_a_mean_has_the_width_of_theory():
    values = np.random.default_rng(0).standard_normal(400)
    interval = bootstrap_interval(lambda rows: float(values[rows].mean()), 400, resamples=2000)
    width = 2 * 1.96 * values.std() / 20
    assert interval.high - interval.low == pytest.approx(width, rel=0.06)  # 2,000 draws: about 3 % of noise
    assert (interval.low + interval.high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_interval_counts_the_draws_that_had_a_value():
    interval = bootstrap_interval(lambda rows: float("nan") if 0 in rows else 1.0, 3, resamples=300)
    assert (interval.low, interval.high) == (1.0, 1.0)
    assert 60 < interval.resamples < 120  # (2/3)^3 of 300 is 89
    with pytest.raises(ValueError, match="NaN on all 5 draws"):
        bootstrap_interval(lambda rows: float("nan"), 3, resamples=5)
    with pytest.raises(ValueError, match="num_rows >= 1"):
        bootstrap_interval(lambda rows: 0.0, 0)
