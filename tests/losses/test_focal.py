"""Focal and asymmetric losses: the formulas, where they meet cross-entropy, and the far ends."""

import math

import pytest
import torch

from reeltag.losses.bce import bce
from reeltag.losses.correlation import bp_mll, correlation_focal
from reeltag.losses.focal import asymmetric, focal


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(2, (3, 5), generator=generator)


def by_hand(term):
    logits, targets = drawn()
    pairs = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    return sum(term(1 / (1 + math.exp(-x)), y) for x, y in pairs) / 15


def test_focal_equals_the_formula():
    expected = by_hand(lambda p, y: -0.3 * (1 - p) ** 1.5 * math.log(p) if y else -0.7 * p**1.5 * math.log(1 - p))
    assert focal(*drawn(), gamma=1.5, alpha=0.3, scale=5).item() == pytest.approx(5 * expected, rel=1e-12)


def test_asymmetric_equals_the_formula():
    def term(p, y):
        low = max(p - 0.2, 0)
        return -(1 - p) * math.log(p) if y else -(low**3) * math.log(1 - low)

    value = asymmetric(*drawn(), gamma_present=1, gamma_absent=3, margin=0.2, scale=2)
    assert value.item() == pytest.approx(2 * by_hand(term), rel=1e-12)


def test_they_are_one_where_their_options_meet():
    logits, targets = drawn()
    entropy = bce(logits, targets).item()
    assert focal(logits, targets, gamma=0).item() == pytest.approx(entropy, rel=1e-12)
    none = {"gamma_present": 0, "gamma_absent": 0, "margin": 0}
    assert asymmetric(logits, targets, **none).item() == pytest.approx(entropy, rel=1e-12)
    both = {"gamma_present": 2, "gamma_absent": 2, "margin": 0}
    assert asymmetric(logits, targets, **both).item() == pytest.approx(focal(logits, targets).item(), rel=1e-12)


def test_soft_targets_mix_the_terms():
    logits, targets = drawn()
    for loss in (focal, asymmetric):
        mixed = 0.3 * loss(logits, targets) + 0.7 * loss(logits, 1 - targets)
        soft = 0.3 * targets.double() + 0.7 * (1 - targets.double())
        assert loss(logits, soft).item() == pytest.approx(mixed.item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("logit", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
def test_every_focus_has_a_finite_gradient_at_every_logit(gamma, logit):
    for loss in (
        lambda x, y: focal(x, y, gamma=gamma),
        lambda x, y: asymmetric(x, y, gamma_present=gamma, gamma_absent=gamma),
        lambda x, y: asymmetric(x, y, gamma_present=gamma, gamma_absent=gamma, margin=0),
    ):
        for target in (0.0, 1.0):
            x = torch.full((1, 1), logit, requires_grad=True)
            value = loss(x, torch.full((1, 1), target))
            value.backward()
            assert value.isfinite()
            assert x.grad.isfinite().all()


def test_absent_labels_below_the_margin_add_nothing():
    logits = torch.tensor([[-4.0, -2.0]], requires_grad=True)  # probabilities 0.018 and 0.119
    asymmetric(logits, torch.zeros(1, 2)).backward()
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1] > 0


def test_correlation_focal_is_the_sum_of_its_two_terms():
    logits, targets = drawn()
    expected = bp_mll(logits, targets, outputs="sigmoid") + 3 * focal(logits, targets, gamma=1)
    assert correlation_focal(logits, targets, alpha=3, gamma=1).item() == pytest.approx(expected.item(), rel=1e-12)
    # The printed sign rewards wrong orders; this one does not.
    right, wrong = torch.tensor([[3.0, -3.0]]), torch.tensor([[-3.0, 3.0]])
    truth = torch.tensor([[1, 0]])
    assert bp_mll(right, truth, outputs="sigmoid") < 1 < bp_mll(wrong, truth, outputs="sigmoid")


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (focal, {"gamma": -1}, "gamma >= 0"),
        (focal, {"alpha": 2}, r"alpha in \[0, 1\]"),
        (asymmetric, {"margin": 1}, r"margin in \[0, 1\)"),
        (correlation_focal, {"alpha": -1}, "alpha must be >= 0, got -1"),
        (bp_mll, {"outputs": "relu"}, "tanh, sigmoid, logits, got 'relu'"),
    ],
)
def test_bad_options_are_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(*drawn(), **options)
