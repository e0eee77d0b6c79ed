"""RAFT with drawn weights: what torchvision's module gives, whatever the size and the batch."""

import pytest
import torch
from torchvision.models import optical_flow
from torchvision.transforms._presets import OpticalFlow

from reeltag.models.adapters.raft import raft

FRAMES = torch.randint(256, (3, 3, 128, 136), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def nets():
    """Torchvision's two networks; their norms have seen numbers, so that evaluation mode matters."""
    torch.manual_seed(0)
    built = {"small": optical_flow.raft_small(), "large": optical_flow.raft_large()}
    for net in built.values():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        net.eval()
    return built


@pytest.mark.parametrize("size", ["small", "large"])
@torch.inference_mode()
def test_flow_is_that_of_torchvisions_module_and_preset(nets, size):
    net = nets[size]
    ours = raft(net.state_dict(), num_updates=3)
    first, second = OpticalFlow()(FRAMES[:2], FRAMES[1:])
    expected = net(first, second, num_flow_updates=3)[-1]
    flow = ours(FRAMES[:2], FRAMES[1:])
    assert flow.dtype == torch.float32
    assert expected.abs().max() > 0.1  # the drawn network says something
    torch.testing.assert_close(flow, expected, rtol=1e-4, atol=1e-4)
    # Pairs do not mix. Batches of one size and another sum in another order, and three updates make it larger.
    torch.testing.assert_close(ours(FRAMES[:1], FRAMES[1:2]), flow[:1], rtol=1e-3, atol=1e-3)
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@torch.inference_mode()
def test_other_sizes_are_continued_at_the_edge_and_cut_back(nets):
    ours = raft(nets["small"].state_dict(), num_updates=2)
    first, second = FRAMES[:1, :, :50, :131], FRAMES[1:2, :, :50, :131]
    rows = torch.arange(-39, 89).clamp(0, 49)  # 78 rows are missing to 128, 39 on either side
    columns = torch.arange(-2, 134).clamp(0, 130)  # 5 columns to 136, 2 on the left
    pairs = [frames[:, :, rows][:, :, :, columns].float() / 127.5 - 1 for frames in (first, second)]
    expected = nets["small"](*pairs, num_flow_updates=2)[-1][:, :, 39:89, 2:133]
    torch.testing.assert_close(ours(first, second), expected, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused(nets):
    weights = nets["small"].state_dict()
    with pytest.raises(ValueError, match=r"not those of torchvision's raft_small: update_block.* and 0 more"):
        raft({key: value for key, value in weights.items() if key != "update_block.flow_head.conv2.bias"})
    with pytest.raises(ValueError, match="not those of torchvision's raft_small"):
        raft(torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="num_updates must be at least 1"):
        raft(weights, num_updates=0)
