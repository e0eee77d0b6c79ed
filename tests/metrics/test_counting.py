"""Counting scores at thresholds: binned and sorted counting agree to the last score."""

import numpy as np
import pytest

from reeltag.metrics import counting
from reeltag.metrics.counting import counts_at_or_above


def plain(scores, thresholds):
    return [(scores >= threshold).sum() for threshold in thresholds]


DRAWS = {
    "normal": lambda g, n: g.standard_normal(n),
    "ties": lambda g, n: g.integers(-5, 6, size=n),
    "saturated": lambda g, n: 1 / (1 + np.exp(-20 * g.standard_normal(n))),
    "wide": lambda g, n: np.sign(g.standard_normal(n)) * np.exp(20 * g.standard_normal(n)),
    "constant": lambda g, n: np.zeros(n),
    "tiny": lambda g, n: 1e-38 * g.standard_normal(n),
    "huge": lambda g, n: 3e38 * (2 * g.random(n) - 1),  # high - low overflows float32
    "offset": lambda g, n: 1e6 + g.standard_normal(n),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_thresholds", [1, 2, 50])
def test_equals_the_plain_count(name, dtype, num_thresholds):
    generator = np.random.default_rng(0)
    scores = DRAWS[name](generator, 200_000).astype(dtype)
    thresholds = np.sort(generator.choice(scores, num_thresholds))
    before = scores.copy()
    np.testing.assert_array_equal(counts_at_or_above(scores, thresholds), plain(scores, thresholds))
    np.testing.assert_array_equal(scores, before)


def test_binning_is_what_ran_and_strides_and_infinities_are_welcome(monkeypatch):
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal((70_000, 3)).astype(np.float32)
    matrix[::7, 1], matrix[::11, 1] = np.inf, -np.inf
    thresholds = np.sort(generator.choice(matrix[np.isfinite(matrix[:, 1]), 1], 200))
    expected = plain(matrix[:, 1], thresholds)
    sizes = []
    sort = np.sort
    monkeypatch.setattr(counting.np, "sort", lambda values: sizes.append(values.size) or sort(values))
    np.testing.assert_array_equal(counts_at_or_above(matrix[:, 1], thresholds), expected)
    assert sizes[0] < 25_000  # a part was sorted, not the 70,000
    thresholds[-1] = np.inf
    np.testing.assert_array_equal(counts_at_or_above(matrix[:, 1], thresholds), plain(matrix[:, 1], thresholds))


def test_empty_sides():
    assert counts_at_or_above(np.ones(3), np.ones(0)).tolist() == []
    assert counts_at_or_above(np.ones(0), np.ones(2)).tolist() == [0, 0]
