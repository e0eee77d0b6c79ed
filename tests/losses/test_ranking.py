"""Pairwise hinge and WARP: sums by hand, ties, and the mean of the sampled form."""

import pytest
import torch

from reeltag.losses.ranking import pairwise_ranking, warp, warp_sampled

LOGITS = torch.tensor([[2.0, 1.5, 0.0, -3.0]], dtype=torch.float64)
TARGETS = torch.tensor([[0, 1, 1, 0]])
# Hinges with margin 1: label 1 against 0: 1.5, against 3: 0; label 2 against 0: 3, against 3: 0.


def test_sums_by_hand():
    assert pairwise_ranking(LOGITS, TARGETS).item() == pytest.approx(4.5)
    assert pairwise_ranking(LOGITS, TARGETS, per_pair=True).item() == pytest.approx(4.5 / 4)
    assert pairwise_ranking(LOGITS, TARGETS, margin=4).item() == pytest.approx(4.5 + 0 + 6 + 1)
    assert warp(LOGITS, TARGETS).item() == pytest.approx((1 + 1 / 2) * 1.5 + (1 + 1 / 2 + 1 / 3) * 3)
    assert warp(LOGITS, TARGETS, divide=True).item() == pytest.approx(1.5 / 2 * 1.5 + (11 / 6) / 3 * 3)
    assert warp(LOGITS, TARGETS, rank="absent").item() == pytest.approx(4.5)
    assert warp(LOGITS, TARGETS, rank="violators", margin=4).item() == pytest.approx(4.5 + 1.5 * 7)


def test_a_tie_with_an_absent_label_counts_against_the_present_one():
    logits = torch.zeros(1, 4, dtype=torch.float64)  # a head that starts at 0 must be able to leave it
    assert warp(logits, TARGETS, rank="absent").item() == pytest.approx(2 * 1.5 * 2)
    assert warp(logits, TARGETS).item() == pytest.approx(2 * (1 + 1 / 2 + 1 / 3) * 2)


def test_sampled_warp_has_the_mean_over_all_orders():
    logits = torch.tensor([[0.5, 0.0, 0.2, -3.0, -0.5]], dtype=torch.float64)
    targets = torch.tensor([[0, 1, 0, 0, 0]])
    # Hinges 1.5, 1.2, 0, 0.5: the first of the three violators is each of them equally often. It comes at once in 3 of
    # 4 orders (rank 4, W = 25/12), otherwise second (rank 2, W = 3/2).
    expected = (1.5 + 1.2 + 0.5) / 3 * (3 / 4 * 25 / 12 + 1 / 4 * 3 / 2)
    generator = torch.Generator().manual_seed(0)
    values = warp_sampled(logits.expand(20_000, 5), targets.expand(20_000, 5), generator=generator)
    assert values.item() == pytest.approx(expected, rel=0.01)


def test_sampled_warp_is_zero_when_no_label_comes_near_and_repeats_with_its_generator():
    far = torch.tensor([[5.0, 0.0, 0.0]], requires_grad=True)
    loss = warp_sampled(far, torch.tensor([[1, 0, 0]]))
    loss.backward()
    assert loss == 0
    assert (far.grad == 0).all()
    logits, targets = torch.randn(8, 30), torch.arange(240).reshape(8, 30) % 7 == 0
    values = [warp_sampled(logits, targets, generator=torch.Generator().manual_seed(s)).item() for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="overall, absent, violators, got 'first'"):
        warp(LOGITS, TARGETS, rank="first")
    for loss in (pairwise_ranking, warp, warp_sampled):
        with pytest.raises(ValueError, match="margin must be > 0, got 0"):
            loss(LOGITS, TARGETS, margin=0)
