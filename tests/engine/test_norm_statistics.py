"""Batch norm statistics over many batches: those of all values at once."""

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.engine.norm_statistics import update_norm_statistics


def batches(sizes, *shape):
    generator = torch.Generator().manual_seed(0)
    return [
        3 * torch.randn(size, *shape, generator=generator) + torch.arange(size).view(-1, *[1] * len(shape))
        for size in sizes
    ]


def test_statistics_are_those_of_all_values_together():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    parts = batches([4, 4, 2, 7], 3, 5, 6)
    assert update_norm_statistics(net, parts, net) == 4
    whole = torch.cat(parts).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(net[0].running_mean.double(), whole.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(net[0].running_var.double(), whole.var(1), rtol=1e-6, atol=1e-6)
    assert net[0].momentum == 0.1
    assert net.training
    # The mean of the batches' variances, which is what is usually taken, would be another number.
    mean_of_variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0)
    assert ((net[0].running_var - mean_of_variances) / mean_of_variances).abs().min() > 0.03


def test_sums_of_two_processes_are_those_of_one():
    parts = batches([4, 4, 2, 7], 3)
    whole = nn.BatchNorm1d(3)
    update_norm_statistics(whole, parts, whole)
    sums = []

    def keep(values):
        sums.append(values.clone())
        return values

    for half in (parts[:2], parts[2:]):
        net = nn.BatchNorm1d(3)
        update_norm_statistics(net, half, net, add_up=keep)
    both = nn.BatchNorm1d(3)
    update_norm_statistics(both, parts[:1], both, add_up=lambda _: sums[0] + sums[1])
    torch.testing.assert_close(both.running_var, whole.running_var)
    torch.testing.assert_close(both.running_mean, whole.running_mean)


def test_frozen_norms_and_empty_loaders_keep_their_statistics():
    model = create_model("tsn_mini", num_labels=3, backbone_options={"widths": (4, 8)})
    model.freeze_norms("partial")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert update_norm_statistics(model, [], model) == 0
    clips = [torch.randn(2, 3, 3, 32, 32) for _ in range(2)]
    update_norm_statistics(model, clips, model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"backbone.net.stem.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert [name for name, module in model.named_modules() if "bn" in name and module.training] == []


def test_hooks_and_momentum_are_put_back_when_a_batch_fails():
    net = nn.BatchNorm1d(3)

    def fail(batch):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        update_norm_statistics(net, batches([4], 3), fail)
    assert (net.momentum, len(net._forward_hooks), net.training) == (0.1, 0, True)
