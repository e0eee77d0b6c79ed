"""Averages of weights: the recurrences by hand, and what a checkpoint holds of them."""

import pytest
import torch
from torch import nn

from reeltag.engine.averaging import Averaging, ema_share
from reeltag.sections import EmaSection, TrainSection

SWA = {"from_epoch": 1, "cycle_epochs": 1}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def moved(net, step):
    with torch.no_grad():
        for index, tensor in enumerate(net.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(100 * step + index)))


def test_ema_by_hand():
    net, averaging = model(), Averaging(TrainSection(ema={"decay": 0.9, "warmup": False}), 4)
    expected = 0.0
    for step in range(1, 6):
        moved(net, step)
        averaging.after_step(net, step)
        weight = net[0].weight.detach().double()
        expected = weight if step == 1 else 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(averaging.average["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert averaging.in_use


def test_ema_forgets_its_beginning():
    shares = [ema_share(count, EmaSection(decay=0.99)) for count in (0, 1, 9, 10_000)]
    assert shares == pytest.approx([1, 0.9, 0.5, 0.01])
    assert ema_share(1, EmaSection(decay=0.99, warmup=False)) == pytest.approx(0.01)


def test_swa_is_the_mean_of_the_ends_of_cycles():
    net, averaging = model(), Averaging(TrainSection(epochs=4, swa=SWA), 3)
    ends = []
    for step in range(1, 13):
        moved(net, step)
        averaging.after_step(net, step)
        if step in (6, 9, 12):
            ends.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
    assert averaging.count == 3
    for name, tensor in averaging.average.items():
        mean = sum(end[name].double() for end in ends) / 3
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6)
    assert "1.num_batches_tracked" not in averaging.average
    assert averaging.to_finish
    assert not averaging.in_use  # until its norms are computed


def test_swapping_brings_the_weights_back_bit_for_bit():
    net, averaging = model(), Averaging(TrainSection(ema={}), 4)
    for step in (1, 2, 3):
        moved(net, step)
        averaging.after_step(net, step)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def look():
        with averaging.for_evaluation(net):
            assert torch.equal(net[0].weight, averaging.average["0.weight"])
            assert not torch.equal(net[0].weight, own["0.weight"])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        look()
    assert all(torch.equal(tensor, own[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "final"), [({"ema": {}}, False), ({"swa": SWA}, False), ({"swa": SWA}, True), ({}, False)]
)
def test_a_checkpoint_holds_both_sets_of_weights(keys, final):
    train = TrainSection(epochs=4, **keys)
    net, averaging = model(), Averaging(train, 2)
    for step in range(1, 6):
        moved(net, step)
        averaging.after_step(net, step)
    if final:
        with averaging.swapped_in(net):
            averaging.take_statistics(net, final=True)
    saved = {
        group: {name: tensor.clone() for name, tensor in named.items()}
        for group, named in averaging.checkpoint(net).items()
    }
    read = averaging.average if averaging.in_use else net.state_dict()
    assert all(torch.equal(saved["model"][name], tensor) for name, tensor in read.items())
    again, restored = model(), Averaging(train, 2)
    restored.restore(again, saved, averaging.state)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert restored.average.keys() == averaging.average.keys()
    assert all(torch.equal(tensor, averaging.average[name]) for name, tensor in restored.average.items())
    assert (restored.count, restored.final, restored.in_use) == (averaging.count, final, averaging.in_use)
