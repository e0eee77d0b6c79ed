"""One step: parts that equal the whole, a guard that leaves everything as it was, and what a scale of the loss is."""

import copy
import math

import pytest
import torch
from torch import nn

from reeltag.engine.optim import build_optimizer, set_rate
from reeltag.engine.step import Stepper, parts_of
from reeltag.losses.bce import bce
from reeltag.losses.lsep import lsep
from reeltag.sections import TrainSection


def batch_of(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(2, (rows, 5), generator=generator).float()
    return {"rows": torch.arange(rows), "x": torch.randn(rows, 6, generator=generator), "targets": targets, "bad": []}


def trained(train, batches, loss=bce, norm=None, dtype=torch.float64):
    """Weights after one step on each batch, of a small net that everybody starts from."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), norm or nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5)).to(dtype)
    optimizer = build_optimizer(net, train)
    set_rate(optimizer, train.lr)

    def forward(batch):
        value = loss(net(batch["x"].to(dtype)), batch["targets"])
        return value, float(value.detach())

    step = Stepper(net, optimizer, train, forward)
    updates = [step(batch) for batch in batches]
    return net, optimizer, updates


def largest_difference(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((one - two).abs().max().detach()) for one, two in pairs)


@pytest.mark.parametrize("loss", [bce, lsep])
@pytest.mark.parametrize("accumulate", [2, 3, 10])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parts_of_a_batch_make_the_step_of_the_whole(loss, accumulate, optimizer):
    keys = {"optimizer": optimizer, "lr": 0.05, "clip_norm": 0.5, "batch_size": 10}
    batches = [batch_of(10, seed) for seed in range(4)]
    whole, _, one = trained(TrainSection(**keys), batches, loss)
    parts, _, many = trained(TrainSection(**keys, accumulate=accumulate), batches, loss)
    assert largest_difference(whole, parts) < 1e-10
    assert [u.loss for u in many] == pytest.approx([u.loss for u in one], rel=1e-12)
    single = {"dtype": torch.float32}
    assert largest_difference(
        trained(TrainSection(**keys), batches, loss, **single)[0],
        trained(TrainSection(**keys, accumulate=accumulate), batches, loss, **single)[0],
    ) < (1e-6 if optimizer == "sgd" else 2e-5)  # adamw divides by the size of the gradient, and by that of its rounding


def test_batch_norm_sees_the_parts():
    """The control: with batch norm the parts are not the whole, or the test above shows nothing."""
    batches = [batch_of(10, seed) for seed in range(2)]
    keys = {"lr": 0.05, "batch_size": 10}
    whole, *_ = trained(TrainSection(**keys), batches, norm=nn.BatchNorm1d(8))
    parts, *_ = trained(TrainSection(**keys, accumulate=2), batches, norm=nn.BatchNorm1d(8))
    assert largest_difference(whole, parts) > 1e-3


def test_parts_are_almost_equal_and_in_order():
    sizes = [
        [len(part["rows"]) for part in parts_of(batch_of(rows), count)] for rows, count in [(10, 3), (2, 4), (5, 1)]
    ]
    assert sizes == [[3, 3, 4], [1, 1], [5]]
    rows = torch.cat([part["rows"] for part in parts_of(batch_of(10), 3)])
    assert torch.equal(rows, torch.arange(10))
    assert [part["bad"] for part in parts_of({**batch_of(4), "bad": [1]}, 2)] == [[1], [1]]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing(value, accumulate):
    train = TrainSection(lr=0.1, batch_size=10, accumulate=accumulate)
    spoiled = batch_of(10, 7)
    spoiled["x"][9, 0] = value
    good = [batch_of(10, 1), batch_of(10, 2)]
    with_it, state, updates = trained(train, [good[0], spoiled, good[1]], norm=nn.BatchNorm1d(8))
    without, other, _ = trained(train, good, norm=nn.BatchNorm1d(8))
    assert updates[1].skipped == "the loss became nan"
    assert [update.skipped for update in updates[::2]] == [None, None]
    for name, tensor in without.state_dict().items():
        assert torch.equal(with_it.state_dict()[name], tensor), name  # running statistics too
    assert all(
        torch.equal(one["momentum_buffer"], two["momentum_buffer"])
        for one, two in zip(state.state.values(), other.state.values(), strict=True)
    )


def test_a_gradient_that_is_not_finite_changes_nothing():
    net = nn.Linear(2, 1)
    before = copy.deepcopy(net.state_dict())

    def forward(batch):
        loss = net(batch["x"]).square().sum().sqrt()  # finite at 0, its slope is not
        return loss, float(loss.detach())

    with torch.no_grad():
        net.bias.zero_()
    before["bias"].zero_()
    update = Stepper(net, torch.optim.SGD(net.parameters(), lr=0.1), TrainSection(), forward)(
        {"rows": torch.arange(1), "x": torch.zeros(1, 2)}
    )
    assert update.loss == 0
    assert update.skipped == "the gradient's norm became nan"
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_processes_agree_on_leaving_a_step_out():
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()

    def forward(batch):
        loss = net(batch["x"]).sum()
        return loss, float(loss.detach())

    step = Stepper(net, torch.optim.SGD(net.parameters(), lr=0.1), TrainSection(), forward, agree=lambda found: True)
    assert (
        step({"rows": torch.arange(1), "x": torch.ones(1, 2)}).skipped
        == "another process found a loss that is not finite"
    )
    assert torch.equal(net.weight, before)


def scaled(batches, scale, lr, **keys):
    train = TrainSection(lr=lr, momentum=0.9, **{"weight_decay": 0.0, **keys})
    return trained(train, batches, lambda x, y: bce(x, y, scale=scale))[0]


def test_a_scale_of_the_loss_is_a_factor_of_the_rate_only_under_plain_sgd():
    """Why "BCE x 160" cannot be repeated by the rate alone (arXiv:2003.05837 reports that it could not).

    SGD moves by lr times the gradient, so 160 on the loss and 160 on the rate are one number. Weight decay is added to
    the gradient but not scaled by the loss: at rate 160 lr it pulls 160 times harder. And a gradient that is clipped to
    a norm has lost the scale, which the rate still has.
    """
    batches = [batch_of(10, seed) for seed in range(5)]
    plain = scaled(batches, 160, 1e-3), scaled(batches, 1, 0.16)
    assert largest_difference(*plain) < 1e-6
    assert largest_difference(plain[0], scaled(batches, 1, 1e-3)) > 0.01  # and it is no small matter
    decayed = scaled(batches, 160, 1e-3, weight_decay=0.05), scaled(batches, 1, 0.16, weight_decay=0.05)
    assert largest_difference(*decayed) > 0.01
    clipped = scaled(batches, 160, 1e-3, clip_norm=1.0), scaled(batches, 1, 0.16, clip_norm=1.0)
    assert largest_difference(*clipped) > 0.01
