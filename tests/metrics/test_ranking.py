"""Measures of the ranking within a video, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import coverage_error, label_ranking_average_precision_score, label_ranking_loss

from reeltag.metrics import METRICS


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("lrap", label_ranking_average_precision_score),
        ("coverage", coverage_error),
        ("ranking_loss", label_ranking_loss),
    ],
)
def test_equals_scikit_learn_on_videos_with_labels(name, oracle, case):
    scores, targets = case
    if targets.shape[1] == 1:
        pytest.skip("scikit-learn reads one column as a binary task")
    kept = targets.any(axis=1)
    assert METRICS[name](scores, targets) == pytest.approx(oracle(targets[kept], scores[kept]), rel=1e-12)


def test_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.1, 0.0], [1, 1, 1, 1]])
    targets = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    assert METRICS["perr"](scores, targets) == pytest.approx((1 / 2 + 1 + 0) / 3)  # the tie is outside
    assert METRICS["coverage"](scores, targets) == pytest.approx((3 + 4 + 2) / 3)
    assert METRICS["ranking_loss"](scores, targets) == pytest.approx((1 / 4 + 0 + 1 / 3) / 3)
    assert METRICS["one_error"](scores, targets) == pytest.approx(1 / 3)
    assert METRICS["lrap"](scores, targets) == METRICS["map_samples"](scores, targets)
