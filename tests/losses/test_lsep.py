"""Log-sum-exp pairwise losses: the double sum, memory, sampled pairs, and thresholds."""

import math

import pytest
import torch

from reeltag.losses.bce import bce
from reeltag.losses.lsep import draw_pairs, lsep, lsep_of_pairs, lsep_sampled, lsep_threshold, wlsep


def drawn(rows=4, labels=7):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, labels, generator=generator, dtype=torch.float64)
    return logits, torch.randint(2, (rows, labels), generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_lsep_equals_the_double_sum_of_the_paper():
    logits, targets = drawn()
    pairs = [
        math.log1p(sum(math.exp(n - p) for n in row[t == 0] for p in row[t == 1]))
        for row, t in zip(logits, targets, strict=True)
    ]
    assert lsep(logits, targets).item() == pytest.approx(sum(pairs) / 4, rel=1e-12)
    assert lsep(torch.tensor([[1e4, -1e4]]), torch.tensor([[0, 1]])) == 2e4


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_clip_without_pairs_adds_exactly_nothing(target):
    logits = torch.randn(2, 3, generator=seeded(), requires_grad=True)
    for loss in (lsep, lsep_sampled):
        value = loss(logits, torch.full((2, 3), target))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 0
        assert (gradient == 0).all()


def test_lsep_needs_no_memory_for_pairs():
    logits = torch.zeros(1, 400_000, requires_grad=True)  # 4e10 pairs
    targets = torch.arange(400_000).remainder(2)[None]
    loss = lsep(logits, targets)
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.log(2e5), rel=1e-6)
    assert lsep_sampled(logits, targets, num_pairs=50, generator=seeded()).item() == pytest.approx(math.log(51))


def test_sampled_pairs_are_distinct_pairs_of_the_clip():
    generator = seeded(1)
    present = torch.rand(5, 60, generator=generator) < 0.3
    present[3] = False
    absent = ~present & (torch.rand(5, 60, generator=generator) < 0.9)
    for num_pairs in (3, 200, 10_000):  # few of many, a large part, and all
        pairs = draw_pairs(present, absent, num_pairs, seeded(2))
        for row in range(5):
            real = {(n, p) for n, p in pairs[row].tolist() if n != p}
            total = int(absent[row].sum() * present[row].sum())
            assert len(real) == min(num_pairs, total)
            assert all(absent[row, n] and present[row, p] for n, p in real)


def test_every_pair_is_drawn_equally_often():
    present, absent = torch.zeros(2, 1, 10, dtype=torch.bool)
    present[0, :2], absent[0, 2:] = True, True
    for num_pairs in (1, 3):  # 16 pairs: once by rejection, once by permutation
        counts, generator = torch.zeros(10, 10), seeded(3)
        for _ in range(800):
            for n, p in draw_pairs(present, absent, num_pairs, generator)[0].tolist():
                counts[n, p] += 1
        assert counts.sum() == 800 * num_pairs
        assert counts[2:, :2].min() > 0.55 * 50 * num_pairs
        assert counts[2:, :2].max() < 1.45 * 50 * num_pairs


def test_sampled_is_the_whole_loss_when_all_pairs_fit_and_less_otherwise():
    logits, targets = drawn()
    assert lsep_sampled(logits, targets).item() == pytest.approx(lsep(logits, targets).item(), rel=1e-12)
    few = lsep_sampled(logits, targets, num_pairs=2, generator=seeded(4))
    assert few < lsep(logits, targets)
    assert few == lsep_sampled(logits, targets, num_pairs=2, generator=seeded(4))
    pairs = draw_pairs(targets == 1, targets == 0, 2, seeded(4))
    assert few == lsep_of_pairs(logits, pairs).mean()
    with pytest.raises(ValueError, match="num_pairs must be >= 1, got 0"):
        lsep_sampled(logits, targets, num_pairs=0)


def test_wlsep_equals_the_sum_over_present_labels():
    logits, targets = drawn()
    weight = torch.linspace(0.5, 2, 7, dtype=torch.float64)
    terms = [
        weight[p].item() * math.log1p(sum(math.exp(n - row[p]) for n in row[t == 0]))
        for row, t in zip(logits, targets, strict=True)
        for p in t.nonzero()[:, 0]
    ]
    assert wlsep(logits, targets, weight=weight).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    with pytest.raises(ValueError, match=r"weight must be \(7,\), one per label, got \(3,\)"):
        wlsep(logits, targets, weight=torch.ones(3))


def test_threshold_loss_moves_thresholds_and_never_scores():
    scores, targets = drawn()
    scores.requires_grad_()
    thresholds = torch.full_like(scores, 0.3).requires_grad_()
    loss = lsep_threshold(thresholds, targets, scores=scores)
    loss.backward()
    assert loss.item() == pytest.approx(bce(scores.detach() - 0.3, targets).item(), rel=1e-12)
    assert scores.grad is None
    assert (thresholds.grad[targets == 1] > 0).all()
    assert (thresholds.grad[targets == 0] < 0).all()
    with pytest.raises(ValueError, match=r"scores must have the shape of the thresholds \(4, 7\), got \(4, 6\)"):
        lsep_threshold(thresholds, targets, scores=scores[:, 1:])


def test_threshold_loss_in_half_precision_subtracts_in_float32():
    scores = torch.tensor([[1.0, 100.0]]).bfloat16()
    thresholds = torch.tensor([[0.00390625, 99.5]]).bfloat16()
    value = lsep_threshold(thresholds, torch.tensor([[1, 0]]), scores=scores)
    exact = bce(scores.double() - thresholds.double(), torch.tensor([[1, 0]]))
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
