"""Weights of clips by hand, and what a weighted epoch draws."""

from collections import Counter

import pytest
import torch

from reeltag.data.example_order import EpochOrder
from reeltag.data.example_weights import class_balanced_weights, repeat_factors

# Label 0 on 8 of 10 clips, label 1 on 2, label 2 on 1 (the last, which carries 0 as well); clip 8 carries none.
TARGETS = torch.zeros(10, 3)
TARGETS[:7, 0] = 1
TARGETS[9, 0] = 1
TARGETS[6:8, 1] = 1
TARGETS[9, 2] = 1


def test_class_balanced_by_hand():
    weights = class_balanced_weights(TARGETS)
    expected = [1 / 8] * 6 + [1 / 8 + 1 / 2, 1 / 2, 0, 1 / 8 + 1]
    expected[8] = sum(expected) / 9
    assert weights == pytest.approx(expected, rel=1e-12)
    # Each label of the set is asked for equally often: the weights of one label's clips are at least 1 in sum.
    assert [sum(w for w, t in zip(weights, TARGETS, strict=True) if t[label]) for label in range(3)] == pytest.approx(
        [1 + 1 / 2 + 1, 1 + 1 / 8, 1 + 1 / 8]
    )


def test_repeat_factors_by_hand():
    factors = repeat_factors(TARGETS, 0.4)
    rare, rarest = (0.4 / 0.2) ** 0.5, (0.4 / 0.1) ** 0.5
    assert factors == pytest.approx([1] * 6 + [rare, rare, 1, rarest], rel=1e-12)
    assert repeat_factors(TARGETS, 0.05) == [1.0] * 10
    with pytest.raises(ValueError, match=r"in \(0, 1\], got 0"):
        repeat_factors(TARGETS, 0)


def test_an_epoch_draws_clips_by_their_factors_and_can_be_resumed():
    factors = repeat_factors(TARGETS, 0.4)
    order = EpochOrder(list(range(10)), 2, seed=3, weights=factors)
    counts: Counter[int] = Counter()
    for epoch in range(200):
        order.set_position(epoch)
        batches = list(order)
        order.set_position(epoch, 3)
        assert list(order) == batches[3:]
        rows = [row for batch in batches for _, row, _ in batch]
        assert len(rows) == 10
        counts.update(rows)
    for row, factor in enumerate(factors):
        # Systematic draws: each epoch's count is within 1 of its mean, so 200 of them are close to theirs.
        assert counts[row] / 200 == pytest.approx(10 * factor / sum(factors), abs=0.1)
