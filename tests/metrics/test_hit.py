"""Hit@k by hand and against scikit-learn on single labels; top-k follows it."""

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from reeltag.metrics import METRICS

SCORES = np.array([[0.9, 0.8, 0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.5] * 7, [0.3] * 7])
TARGETS = np.array([[0, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0], [0] * 7])


@pytest.mark.parametrize("name", ["hit_at", "top"])
def test_by_hand(name):
    # Video 0 is second, video 1 first, video 2 ties with six absent labels, video 3 has no label and does not count.
    assert METRICS[f"{name}_1"](SCORES, TARGETS) == pytest.approx(1 / 3)
    assert METRICS[f"{name}_5"](SCORES, TARGETS) == pytest.approx(2 / 3)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", ["hit_at", "top"])
def test_single_labels_equal_scikit_learn(name, k):
    generator = np.random.default_rng(0)
    scores, truth = generator.standard_normal((300, 20)), generator.integers(20, size=300)
    expected = top_k_accuracy_score(truth, scores, k=k, labels=np.arange(20))
    assert METRICS[f"{name}_{k}"](scores, np.eye(20)[truth]) == pytest.approx(expected, rel=1e-12)


def test_an_ignored_label_is_no_rival():
    ignore = np.zeros_like(TARGETS)
    ignore[0, 0] = 1
    assert METRICS["hit_at_1"](SCORES, TARGETS, ignore=ignore) == pytest.approx(2 / 3)
