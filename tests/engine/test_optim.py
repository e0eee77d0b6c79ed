"""Learning rates by hand, groups without decay, and an optimiser state that survives the trip to disk."""

import pytest
import torch
from torch import nn

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
