"""What every registered loss promises, unasked."""

import pytest
import torch

from reeltag.losses import LOSSES

NAMES = list(LOSSES)


def test_bce_is_registered():
    assert "bce" in NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradient_are_finite(name, dtype, case):
    logits, targets = case
    logits = logits.to(dtype).requires_grad_()
    loss = LOSSES[name](logits, targets)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert loss >= 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, targets), (logits,))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_helps(name):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    loss = LOSSES[name](logits, targets)
    loss.backward()
    assert LOSSES[name](logits - 0.01 * logits.grad, targets) < loss


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pairs_change_nothing_and_get_no_gradient(name):
    if "ignore" not in LOSSES.schema(name):
        pytest.skip(f"{name} takes no ignore mask")
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(2, (4, 6), generator=generator)
    ignore = torch.zeros(4, 6, dtype=torch.bool)
    ignore[0, 2] = ignore[1, 0] = ignore[3] = True
    value = LOSSES[name](logits, targets, ignore=ignore)
    assert value != LOSSES[name](logits, targets)
    for junk in (1e4, -1e4, float("nan")):
        x = logits.masked_fill(ignore, junk).requires_grad_()
        other = LOSSES[name](x, torch.where(ignore, 1 - targets, targets), ignore=ignore)
        other.backward()
        assert other == value
        assert (x.grad[ignore] == 0).all()
        assert (x.grad[~ignore] != 0).any()
    x = logits.clone().requires_grad_()
    nothing = LOSSES[name](x, targets, ignore=torch.ones_like(ignore))
    nothing.backward()
    assert nothing == 0
    assert (x.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_mismatched_shapes_are_refused(name):
    with pytest.raises(ValueError, match="4"):
        LOSSES[name](torch.zeros(4, 3), torch.zeros(4, 2))
