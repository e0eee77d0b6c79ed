"""Layers put behind the blocks of networks that are already built."""

import pytest
import torch
from torch import nn
from torchvision.models.video import r3d_18

from reeltag.layers.insertion import insert_nonlocal
from reeltag.layers.nonlocal_block import AfterBlock
from reeltag.models.image2d import build_backbone
from reeltag.models.tsn import TemporalSegmentNetwork

OPTIONS = {
    "nonlocal_block": {"pool": "before", "scale": True},
    "relation_block": {"reach": (2, 1, 1), "field": (3, 2, 2)},
}


@pytest.mark.parametrize("layer", OPTIONS)
def test_a_2d_network_starts_as_it_was_and_sees_the_clip_when_the_layer_has_learned(layer):
    torch.manual_seed(0)
    model = TemporalSegmentNetwork(build_backbone("resnet18"), 3).eval()
    x = torch.randn(2, 3, 3, 64, 64)
    before, names = model(x), set(model.state_dict())
    net = model.backbone.net
    assert (
        insert_nonlocal(net, {"layer2": [0, 1], "layer3": [1]}, layer=layer, options=OPTIONS[layer], clip=model.clip)
        == 3
    )
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    kept = {name.replace(".block.", ".") for name in model.state_dict() if ".nl." not in name}
    assert kept == names
    nn.init.ones_(net.layer3[1].nl.norm.weight)
    nn.init.normal_(net.layer3[1].nl.out.weight)
    changed = model.forward_features(x)
    x[1, 2] += 1  # the last frame of the second clip
    moved = (model.forward_features(x) - changed).abs().amax((2, 3, 4))
    assert (moved[0] == 0).all()
    assert (moved[1] > 1e-4).all()  # every frame of its clip has seen it, and no other clip


def test_a_3d_network():
    torch.manual_seed(0)
    net = r3d_18(weights=None).eval()
    x = torch.randn(1, 3, 4, 32, 32)
    before = net(x)
    assert insert_nonlocal(net, {"layer2": [1]}, options={"pool": "none"}) == 1
    assert isinstance(net.layer2[1], AfterBlock)
    assert net.layer2[1].nl.g.in_channels == 128
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)


def test_places_that_are_not_there_are_named_and_nothing_changes():
    net = r3d_18(weights=None)
    with pytest.raises(ValueError, match="layer2 has blocks 0 to 1, and one is to follow block 2"):
        insert_nonlocal(net, {"layer1": [0], "layer2": [2]})
    with pytest.raises(ValueError, match="VideoResNet has no stage of blocks called 'res2'"):
        insert_nonlocal(net, {"res2": [0]})
    assert not any(isinstance(module, AfterBlock) for module in net.modules())
