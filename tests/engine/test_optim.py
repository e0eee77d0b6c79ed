"""Learning rates by hand, groups without decay, and an optimiser state that survives the trip to disk."""

import math

import pytest
import torch
from torch import nn

from reeltag.engine.averaging import ends_cycle
from reeltag.engine.groups import parameter_groups
from reeltag.engine.optim import build_optimizer, flatten_state, rate_factor, restore_state
from reeltag.sections import TrainSection


def test_cosine_with_warm_up_by_hand():
    train = TrainSection(epochs=10, warmup_epochs=2, schedule="cosine")
    expected = {0: 0.0, 1: 0.5, 2: 1.0, 4: 0.8535533905932737, 6: 0.5, 10: 0.0}
    for epoch, value in expected.items():
        assert rate_factor(epoch, train) == pytest.approx(value, abs=1e-12)


def test_steps_and_constant():
    train = TrainSection(epochs=25, schedule="step", milestones=[10, 20], gamma=0.1)
    assert [rate_factor(e, train) for e in (9.99, 10, 19.9, 20)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert rate_factor(24, TrainSection(epochs=25, schedule="constant")) == 1.0


def test_cosine_over_all_of_training_and_down_to_a_floor():
    """As where the rate of iteration n is 0.5 (cos(pi n / n_max) + 1) and a warm-up lies over its beginning."""
    train = TrainSection(epochs=10, warmup_epochs=2, warmup_overlaps=True)
    assert rate_factor(1, train) == 0.5
    for epoch in (2, 5, 9):
        assert rate_factor(epoch, train) == pytest.approx(0.5 * (math.cos(math.pi * epoch / 10) + 1), abs=1e-12)
    assert rate_factor(10, TrainSection(epochs=10, min_lr=0.1)) == pytest.approx(0.1)
    assert rate_factor(5, TrainSection(epochs=10, min_lr=0.1)) == pytest.approx(0.55)


def test_restarts_by_hand():
    train = TrainSection(epochs=7, schedule="restarts", cycle_epochs=1, cycle_growth=2)  # cycles of 1, 2 and 4 epochs
    expected = {0: 1.0, 0.5: 0.5, 1: 0.0, 2: 0.5, 3: 0.0, 4: 0.8535533905932737, 5: 0.5, 7: 0.0}
    for epoch, value in expected.items():
        assert rate_factor(epoch, train) == pytest.approx(value, abs=1e-12)
    assert rate_factor(1.0001, train) == pytest.approx(1, abs=1e-6)
    late = TrainSection(epochs=8, schedule="restarts", cycle_epochs=3, warmup_epochs=2, min_lr=0.2)
    assert [rate_factor(e, late) for e in (1, 2, 5, 6.5, 8)] == pytest.approx([0.5, 1, 0.2, 0.6, 0.2])


def test_the_cycles_of_weight_averaging_by_hand():
    """Steps of a cycle of four: equation 1 of arXiv:1803.05407 with rates 0.5 and 0.1."""
    swa = {"from_epoch": 2, "cycle_epochs": 1, "lr_high": 0.5, "lr_low": 0.1}
    train = TrainSection(epochs=4, schedule="constant", swa=swa)
    steps = [rate_factor(step / 4, train) for step in range(5, 17)]
    assert steps == pytest.approx([1] * 4 + [0.4, 0.3, 0.2, 0.1] * 2)
    assert [step for step in range(1, 17) if ends_cycle(step, 4, train.swa)] == [12, 16]
    with pytest.raises(ValueError, match=r"1.5 cycles of 1.0 epochs; make it a whole number"):
        TrainSection(epochs=3.5, swa=swa)


@pytest.mark.parametrize("num_batches", [7, 10, 49])
def test_cycles_of_any_length_end_where_the_rate_is_lowest(num_batches):
    train = TrainSection(epochs=1.5, swa={"from_epoch": 0.3, "cycle_epochs": 0.4, "lr_high": 1, "lr_low": 0.01})
    last = [step for step in range(1, 2 * num_batches) if ends_cycle(step, num_batches, train.swa)]
    rates = {step: rate_factor(step / num_batches, train) for step in range(1, 2 * num_batches + 1)}
    assert len(last) >= 3
    for step in last:
        assert rates[step] < rates[step + 1]
        assert rates[step] < rates[step - 1] or step - 1 in last or (step - 1) / num_batches <= 0.3


def test_norms_and_biases_have_no_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, free = parameter_groups(model, TrainSection(weight_decay=0.1))
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in free["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer_state_round_trip(name):
    torch.manual_seed(0)

    def trained(steps, restored=None):
        torch.manual_seed(1)
        model = nn.Linear(4, 3)
        optimizer = build_optimizer(model, TrainSection(optimizer=name, lr=0.1))
        if restored:
            model.load_state_dict(restored[0])
            restore_state(optimizer, *restored[1])
        for step in steps:
            optimizer.zero_grad()
            model(torch.full((2, 4), float(step + 1))).square().sum().backward()
            optimizer.step()
        return model.state_dict(), flatten_state(optimizer)

    whole = trained(range(6))
    halves = trained(range(3, 6), restored=trained(range(3)))
    for key, value in whole[0].items():
        assert torch.equal(value, halves[0][key])
