"""One distribution over labels: against torch's own cross-entropy and KL divergence."""

import pytest
import torch
from torch.nn import functional as F

from reeltag.losses.softmax import cross_entropy, kl, softmax


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 4, 2, 2, 1, 3]), torch.rand(6, 5, generator=generator, dtype=torch.float64)


def test_one_hot_targets_are_class_numbers():
    logits, classes, _ = drawn()
    one_hot = F.one_hot(classes, 5)
    expected = F.cross_entropy(logits, classes).item()
    for loss in (softmax, cross_entropy, kl):
        assert loss(logits, one_hot).item() == pytest.approx(expected, rel=1e-12)
    smoothed = F.cross_entropy(logits, classes, label_smoothing=0.2).item()
    assert cross_entropy(logits, one_hot, smoothing=0.2).item() == pytest.approx(smoothed, rel=1e-12)


def test_shares_are_those_of_torch():
    logits, _, targets = drawn()
    shares = targets / targets.sum(dim=1, keepdim=True)
    divergence = F.kl_div(logits.log_softmax(1), shares, reduction="batchmean").item()
    assert kl(logits, targets).item() == pytest.approx(divergence, rel=1e-12)
    assert softmax(logits, targets).item() == pytest.approx(F.cross_entropy(logits, shares).item(), rel=1e-12)
    assert cross_entropy(logits, targets).item() == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-12)
    assert kl(shares.log(), targets).item() == pytest.approx(0, abs=1e-15)


def test_the_softmax_runs_over_known_labels():
    logits, _, targets = drawn()
    ignore = torch.zeros(6, 5, dtype=torch.bool)
    ignore[:, 2] = True
    keep = [0, 1, 3, 4]
    for loss in (softmax, kl, cross_entropy):
        known = loss(logits[:, keep], targets[:, keep]).item()
        assert loss(logits, targets, ignore=ignore).item() == pytest.approx(known, rel=1e-12)
    smoothed = cross_entropy(logits[:, keep], targets[:, keep], smoothing=0.3).item()
    assert cross_entropy(logits, targets, ignore=ignore, smoothing=0.3).item() == pytest.approx(smoothed, rel=1e-12)
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        cross_entropy(logits, targets, smoothing=1)


def test_large_logits_keep_their_differences_in_float32():
    logits = torch.tensor([[10000.0, 10000.5]])
    exact = softmax(logits.double(), torch.tensor([[1, 0]])).item()
    assert softmax(logits, torch.tensor([[1, 0]])).item() == pytest.approx(exact, rel=1e-6)
