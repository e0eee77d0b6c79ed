"""Precision and recall of the best k labels: the counts by hand, ties and few known labels."""

import numpy as np
import pytest

from reeltag.metrics import METRICS
from reeltag.metrics.pairs import pairs_of
from reeltag.metrics.top_k import top_k


def by_hand(scores, targets, k):
    chosen = np.zeros_like(targets)
    for row, best in zip(chosen, np.argsort(-scores, axis=1)[:, :k], strict=True):
        row[best] = True
    found, count = (chosen & targets).sum(axis=0), chosen.sum(axis=0)
    some = targets.any(axis=0)
    cp = np.mean([f / c if c else 0 for f, c in zip(found[some], count[some], strict=True)])
    cr = np.mean(found[some] / targets.sum(axis=0)[some])
    op, recall = found.sum() / (k * len(targets)), found.sum() / targets.sum()
    return {
        **{"cp_at_3": cp, "cr_at_3": cr, "cf1": 2 * cp * cr / (cp + cr)},
        **{"op_at_3": op, "or_at_3": recall, "of1": 2 * op * recall / (op + recall)},
    }


@pytest.mark.parametrize("k", [1, 3, 6])
def test_equals_the_count(draw, k):
    scores, targets = draw(50, 30, density=0.1)
    targets[:, 4], targets[7] = False, False
    found = {name: METRICS[name](scores, targets, k=k) for name in by_hand(scores, targets, k)}
    assert found == pytest.approx(by_hand(scores, targets, k), rel=1e-12)


def test_ties_share_the_places_that_are_left():
    found = top_k(pairs_of(np.array([[3.0, 1, 1, 1, 0]]), np.array([[0, 1, 0, 0, 1]])), 2)
    assert found.chosen.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 0])
    assert found.found.tolist() == pytest.approx([0, 1 / 3, 0, 0, 0])
    targets = np.arange(20).reshape(4, 5) % 3 == 0
    assert METRICS["op_at_3"](np.ones((4, 5)), targets) == pytest.approx(targets.mean())  # as good as chance


def test_fewer_known_labels_than_places_are_all_chosen():
    scores, targets = np.array([[1.0, 2, 3, -np.inf]]), np.array([[1, 0, 1, 1]])
    found = top_k(pairs_of(scores, targets, np.array([[0, 1, 1, 0]])), 3)
    assert found.chosen.tolist() == [1, 0, 0, 1]
    assert found.found.tolist() == [1, 0, 0, 1]
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        top_k(pairs_of(scores, targets), 0)


def test_a_label_without_positives_or_choices():
    scores, targets = np.array([[2.0, 1, 0], [2, 1, 0]]), np.array([[1, 0, 1], [1, 0, 0]])
    assert METRICS["cp_at_3"](scores, targets, k=1) == 0.5  # label 1 is left out, label 2 is never chosen
    assert METRICS["cr_at_3"](scores, targets, k=1) == 0.5
    assert METRICS["cf1"](-scores, 1 - targets, k=1) == pytest.approx(2 * (1 / 4) * (1 / 2) / (3 / 4))
