"""What every registered loss promises, unasked."""

import pytest
import torch

from reeltag.losses import LOSSES, NOT_IN_RECIPES

NAMES = list(LOSSES)
SOFT = {"kl"}  # its least value on several labels is 0 only up to rounding


def loss_of(name, logits, targets, **options):
    """The loss, with its draws, where it has any, from one seed."""
    if "generator" in LOSSES.schema(name):
        options["generator"] = torch.Generator().manual_seed(0)
    return LOSSES[name](logits, targets, **options)


def drawn(seed, rows=4, labels=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, labels, generator=generator, dtype=torch.float64)
    return logits, torch.randint(2, (rows, labels), generator=generator)


def test_the_losses_of_the_documents_are_registered():
    assert set(NAMES) == {
        *("asymmetric", "bce", "bp_mll", "correlation_focal", "cross_entropy", "focal", "hinge", "kl", "lsep"),
        *("lsep_sampled", "lsep_threshold", "pairwise_ranking", "partial_bce", "single_positive", "softmax", "warp"),
        *("warp_sampled", "wlsep"),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradient_are_finite(name, dtype, case):
    logits, targets = case
    logits = logits.to(dtype).requires_grad_()
    loss = loss_of(name, logits, targets)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.isfinite()
    assert loss >= (-1e-6 if name in SOFT else 0)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name):
    logits, _ = drawn(1, 4, 5)
    targets = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.autograd.gradcheck(lambda x: loss_of(name, x, targets), (logits.requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_against_the_gradient_helps(name):
    logits, _ = drawn(2, 3, 5)
    logits.requires_grad_()
    targets = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    loss = loss_of(name, logits, targets)
    loss.backward()
    assert loss_of(name, logits - 0.01 * logits.grad, targets) < loss


@pytest.mark.parametrize("name", NAMES)
def test_gradient_pulls_present_labels_up_and_absent_ones_down(name):
    logits = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)  # where training starts
    targets = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]]).double()
    loss_of(name, logits, targets).backward()
    # The trained input of `lsep_threshold` is the threshold: what rises there is the bar.
    up = -logits.grad if name == "lsep_threshold" else logits.grad
    assert (up[targets == 1] < 0).all()
    assert (up[targets == 0] >= 0).all()
    assert (up[targets == 0] > 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pairs_change_nothing_and_get_no_gradient(name):
    logits, targets = drawn(3)
    ignore = torch.zeros(4, 6, dtype=torch.bool)
    ignore[0, 2] = ignore[1, 0] = ignore[3] = True
    value = loss_of(name, logits, targets, ignore=ignore)
    assert value != loss_of(name, logits, targets)
    for junk in (1e4, -1e4, float("nan")):
        x = logits.masked_fill(ignore, junk).requires_grad_()
        other = loss_of(name, x, torch.where(ignore, 1 - targets, targets), ignore=ignore)
        other.backward()
        assert other == value
        assert (x.grad[ignore] == 0).all()
        assert (x.grad[~ignore] != 0).any()
    x = logits.clone().requires_grad_()
    nothing = loss_of(name, x, targets, ignore=torch.ones_like(ignore))
    nothing.backward()
    assert nothing == 0
    assert (x.grad == 0).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"warp_sampled"}))  # its draws differ with the number of clips
def test_a_wholly_ignored_clip_is_as_good_as_absent_and_order_does_not_matter(name):
    logits, targets = drawn(4)
    ignore = torch.zeros(4, 6, dtype=torch.bool)
    ignore[2] = True
    keep = torch.tensor([0, 1, 3])
    value = loss_of(name, logits[keep], targets[keep])
    torch.testing.assert_close(loss_of(name, logits, targets, ignore=ignore), value, rtol=1e-12, atol=0)
    rows, columns = torch.tensor([2, 0, 1]), torch.tensor([5, 2, 0, 1, 4, 3])
    other = loss_of(name, logits[keep][rows][:, columns], targets[keep][rows][:, columns])
    torch.testing.assert_close(other, value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    generator = torch.Generator().manual_seed(5)
    logits = (3 * torch.randn(32, 100, generator=generator)).to(dtype).requires_grad_()
    targets = (torch.rand(32, 100, generator=generator) < 0.05).to(dtype)
    value = loss_of(name, logits, targets)
    value.backward()
    assert value.dtype == torch.float32
    assert logits.grad.dtype == dtype
    assert value.item() == pytest.approx(loss_of(name, logits.detach().double(), targets).item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_mismatched_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        LOSSES[name](torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"\(4, 3\), got \(4, 1\)"):
        LOSSES[name](torch.zeros(4, 3), torch.zeros(4, 3), ignore=torch.zeros(4, 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_other_option_can_stand_in_a_recipe(name):
    for option, parameter in LOSSES.schema(name).items():
        plain = isinstance(parameter.default, bool | int | float | str) or "float | None" in str(parameter.annotation)
        assert plain != (option in NOT_IN_RECIPES), f"{name}.{option} = {parameter.default!r}"
