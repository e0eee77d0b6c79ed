"""Global average precision at k: by hand, and against a plain list of all predictions."""

import numpy as np
import pytest

from reeltag.metrics.gap import gap, gap_at_20


def plain_gap(scores, targets, k):
    kept = [
        (score, truth)
        for row, truths in zip(scores, targets, strict=True)
        for score, truth in sorted(zip(row, truths, strict=True), key=lambda pair: -pair[0])[:k]
    ]
    kept.sort(key=lambda pair: -pair[0])
    hits, total = 0, 0.0
    for rank, (_, truth) in enumerate(kept, 1):
        hits += truth
        total += truth * hits / rank
    return total / targets.sum()


@pytest.mark.parametrize("k", [1, 3, 20, 24])
def test_gap_at_k_equals_the_plain_list(k, draw):
    scores, targets = draw(40, 25)
    assert gap_at_20(scores, targets, k=k) == pytest.approx(plain_gap(scores, targets, k), rel=1e-12)


def test_k_of_all_labels_or_more_is_gap(draw):
    scores, targets = draw(40, 25)
    assert gap_at_20(scores, targets, k=25) == gap_at_20(scores, targets, k=99) == gap(scores, targets)
    assert gap(scores, targets) == pytest.approx(plain_gap(scores, targets, 25), rel=1e-12)


def test_a_label_below_the_cut_costs_recall():
    scores, targets = np.array([[0.9, 0.8, 0.7]]), np.array([[1, 0, 1]])
    assert gap_at_20(scores, targets, k=1) == 0.5  # one of two found, at precision 1
    assert gap_at_20(scores, targets, k=3) == pytest.approx((1 + 2 / 3) / 2)


def test_ties_at_the_cut_all_enter():
    scores, targets = np.array([[0.5, 0.5, 0.5, 0.1]]), np.array([[0, 0, 1, 1]])
    assert gap_at_20(scores, targets, k=1) == pytest.approx((1 / 3) / 2)  # 1 of the 3 that tie, of 2 positives


def test_an_ignored_label_takes_no_place():
    scores, targets = np.array([[0.9, 0.8, 0.7]]), np.array([[0, 1, 0]])
    assert gap_at_20(scores, targets, k=1) == 0
    assert gap_at_20(scores, targets, k=1, ignore=np.array([[1, 0, 0]])) == 1


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        gap_at_20(np.ones((1, 2)), np.ones((1, 2)), k=0)
