"""What the interface adds to every model: recomputed blocks, frozen norms, counted operations."""

import copy

import pytest
import torch
from torch import nn

from reeltag.build import create_model


def _step(model, x):
    model.zero_grad()
    loss = model(x).square().sum()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def test_checkpointing_changes_neither_gradients_nor_batch_statistics():
    torch.manual_seed(0)
    plain = create_model("tsm_mini", num_labels=3, dropout=0.0).train()
    spared = copy.deepcopy(plain)
    spared.set_gradient_checkpointing()
    x = torch.randn(2, 4, 3, 32, 32)
    (loss, grads), (spared_loss, spared_grads) = _step(plain, x), _step(spared, x)
    torch.testing.assert_close(spared_loss, loss, rtol=0, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(spared_grads[name], grad, rtol=1e-6, atol=1e-7)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(spared.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_checkpointing_keeps_fewer_activations():
    model = create_model("tsm_mini", num_labels=3, dropout=0.0).train()
    x = torch.randn(2, 4, 3, 64, 64)

    def kept():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(x)
        return sum(sizes)

    before = kept()
    model.set_gradient_checkpointing()
    assert kept() < 0.6 * before
    model.set_gradient_checkpointing(False)
    assert kept() == before


@pytest.mark.parametrize(("how", "training"), [("none", 9), ("partial", 1), ("all", 0)])
def test_frozen_norms_stay_in_evaluation_mode_without_gradients(how, training):
    model = create_model("tsn_mini", num_labels=3)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 9
    model.freeze_norms("all")
    model.freeze_norms(how)
    model.eval()
    model.train()
    assert [norm.training for norm in norms] == [True] * training + [False] * (9 - training)
    assert [norm.weight.requires_grad for norm in norms] == [True] * training + [False] * (9 - training)
    before = norms[-1].running_mean.clone()
    model(torch.randn(2, 2, 3, 32, 32))
    assert torch.equal(norms[-1].running_mean, before) == (how != "none")


def test_flops_are_counted_on_shapes_and_by_hand():
    model = create_model("tsn_mini", num_labels=3, backbone_options={"widths": (4,)})
    # 16 px: stem 5x5 stride 2 -> 8 px, pool -> 4 px, two 3x3 convolutions of 4 channels, then the classifier.
    macs = 8 * 8 * 4 * 3 * 25 + 2 * (4 * 4 * 4 * 4 * 9) + 4 * 3
    assert model.flops(torch.empty(1, 1, 3, 16, 16, device="meta")) == 2 * macs
    assert model.flops(torch.zeros(2, 3, 3, 16, 16)) == 2 * 6 * macs
    assert next(model.parameters()).device.type == "cpu"


def test_bad_calls_are_named():
    model = create_model("tsn_mini", num_labels=3)
    with pytest.raises(ValueError, match="frozen norms are 'none', 'partial' or 'all', got 'some'"):
        model.freeze_norms("some")
    model = create_model("tsn_vgg11", num_labels=3)
    with pytest.raises(ValueError, match="has no blocks to recompute"):
        model.set_gradient_checkpointing()
