"""Truth that is known in part, and the weights of labels and of what was not observed."""

import pytest
import torch

from reeltag.losses.bce import bce, partial_bce
from reeltag.losses.hinge import hinge
from reeltag.losses.label_weights import label_weights
from reeltag.losses.single_positive import single_positive


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(2, (4, 6), generator=generator).double()
    ignore = torch.zeros(4, 6, dtype=torch.bool)
    ignore[0, 1:] = ignore[1, :2] = ignore[3] = True
    return logits, targets, ignore


def test_partial_bce_gives_every_clip_one_voice():
    logits, targets, ignore = drawn()
    rows = [bce(logits[i : i + 1], targets[i : i + 1], ignore=ignore[i : i + 1]).item() for i in range(3)]
    assert partial_bce(logits, targets, ignore=ignore).item() == pytest.approx(sum(rows) / 3, rel=1e-12)
    known = [1 / 6, 4 / 6, 1.0]
    expected = sum((2 - k) * k * row for k, row in zip(known, rows, strict=True)) / 3  # g(k) = -k + 2
    value = partial_bce(logits, targets, alpha=-1, beta=2, gamma=1, ignore=ignore)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert partial_bce(logits, targets).item() == pytest.approx(bce(logits, targets).item(), rel=1e-12)


def test_bce_gives_every_known_pair_one_voice():
    logits, targets, ignore = drawn()
    expected = bce(logits[~ignore][None], targets[~ignore][None])
    assert bce(logits, targets, ignore=ignore).item() == pytest.approx(expected.item(), rel=1e-12)


def test_weight_of_present_clips_alone():
    logits, targets, ignore = drawn()
    weight = torch.linspace(0.5, 3, 6, dtype=torch.float64)
    plain = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, targets).item()
    assert bce(logits, targets, pos_weight=weight).item() == pytest.approx(plain, rel=1e-12)
    by_label = bce(logits, targets, pos_weight=weight.float(), weight=1 / weight, ignore=ignore).item()
    terms = torch.nn.BCEWithLogitsLoss(pos_weight=weight, weight=1 / weight, reduction="none")(logits, targets)
    assert by_label == pytest.approx(terms[~ignore].mean().item(), rel=1e-7)


def test_what_was_not_observed_is_a_weak_negative():
    logits, targets, _ = drawn()
    present = bce(logits[targets == 1][None], torch.ones(1, int(targets.sum()))).item() * targets.sum().item()
    absent = bce(logits[targets == 0][None], torch.zeros(1, int(24 - targets.sum()))).item() * (
        24 - targets.sum().item()
    )
    assert single_positive(logits, targets).item() == pytest.approx((present + absent / 5) / 24, rel=1e-12)
    assumed = single_positive(logits, targets, negative_weight=1).item()
    assert assumed == pytest.approx(bce(logits, targets).item(), rel=1e-12)
    with pytest.raises(ValueError, match="negative_weight must be >= 0, got -1"):
        single_positive(logits, targets, negative_weight=-1)


def test_label_weights():
    counts = torch.tensor([1, 4, 16, 0, 4])
    assert label_weights(counts).tolist() == pytest.approx([0.2, 0.8, 3.2, 0, 0.8])
    assert label_weights(counts, power=0.5, inverse=True).tolist() == pytest.approx(
        [5**0.5, 1.25**0.5, 0.3125**0.5, 5**0.5, 1.25**0.5]
    )
    for wrong in ([1, -1], [0, 0]):
        with pytest.raises(ValueError, match="none negative and not all 0"):
            label_weights(torch.tensor(wrong))


def test_hinge_by_hand():
    logits, targets = torch.tensor([[0.4, -2.0, 3.0]]), torch.tensor([[1, 1, 0]])
    assert hinge(logits, targets).item() == pytest.approx((0.6 + 3 + 4) / 3)
    assert hinge(logits, targets, margin=2, scale=3).item() == pytest.approx(1.6 + 4 + 5)
    with pytest.raises(ValueError, match="margin > 0"):
        hinge(logits, targets, margin=0)


def test_the_scale_is_a_learning_rate_under_plain_descent_only():
    _, targets, _ = drawn()
    inputs = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def train(scale, rate, weight_decay=0.0, clip_norm=None):
        weight = torch.full((3, 6), 0.1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=rate, weight_decay=weight_decay)
        for _ in range(20):
            optimizer.zero_grad()
            bce(inputs @ weight, targets, scale=scale).backward()
            if clip_norm:
                torch.nn.utils.clip_grad_norm_([weight], clip_norm)
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(train(160, 0.001), train(1, 0.16), rtol=1e-6, atol=0)
    for options in ({"weight_decay": 0.1}, {"clip_norm": 0.5}):
        assert (train(160, 0.001, **options) - train(1, 0.16, **options)).abs().max() > 0.01
