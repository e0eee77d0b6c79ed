"""Inflated networks start as the 2D network they come from."""

import copy

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.layers.inflate import InflatedConv, SeparableConv, inflate
from reeltag.layers.temporal_shift import ClipLength
from reeltag.models.image2d import build_backbone


def drawn(net):
    """Give every norm its own statistics, so that equality means something."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


def pair_of(name, how, frames, **options):
    flat, deep, clip = drawn(build_backbone(name)), drawn(build_backbone(name)), ClipLength()
    deep.load_state_dict(flat.state_dict())
    assert inflate(deep.net, clip, how, **options) > 0
    clip.num_frames = frames
    return flat, deep.eval()


def test_identical_frames_give_the_2d_output_away_from_zero_padding():
    flat, deep = pair_of("resnet18", "i3d", 41)
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = flat.forward_features(image)
        found = deep.forward_features(image.expand(41, -1, -1, -1))
    # 17 convolutions of 3 frames: the first 17 frames have seen padding, the middle has not.
    torch.testing.assert_close(found[17:24], expected.expand(7, -1, -1, -1), rtol=1e-4, atol=1e-4)
    assert (found[0] - expected[0]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "px"),
    [
        ("resnet18", 32),
        ("mini", 32),
        pytest.param("resnet50", 64, marks=pytest.mark.slow),
        pytest.param("inception_v4", 107, marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", 107, marks=pytest.mark.slow),
        pytest.param("polynet", 235, marks=pytest.mark.slow),
        ("inception_v1", 32),
    ],
)
@pytest.mark.parametrize(("how", "padding"), [("i3d", "replicate"), ("p3d", "zeros")])
def test_identical_frames_give_the_2d_output_everywhere(name, px, how, padding):
    flat, deep = pair_of(name, how, 3, time_padding=padding)
    image = torch.randn(2, 3, px, px)
    with torch.inference_mode():
        expected = flat.forward_features(image).unsqueeze(1).expand(-1, 3, -1, -1, -1)
        found = deep.forward_features(image.unsqueeze(1).expand(-1, 3, -1, -1, -1).flatten(0, 1))
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.unflatten(0, (2, 3)), expected, rtol=1e-4, atol=1e-5 * scale)


def test_the_layers_are_the_3d_convolutions_that_they_say():
    torch.manual_seed(0)
    clip = ClipLength()
    clip.num_frames = 4
    conv = nn.Conv2d(6, 4, (3, 5), stride=2, padding=(1, 2), groups=2)
    x = torch.randn(8, 6, 9, 10)
    clips = x.unflatten(0, (2, 4)).transpose(1, 2)
    inflated = InflatedConv(conv, clip, 3, "zeros")
    nn.init.normal_(inflated.weight)
    expected = nn.functional.conv3d(
        clips, inflated.weight, inflated.bias, stride=(1, 2, 2), padding=(1, 1, 2), groups=2
    )
    torch.testing.assert_close(inflated(x), expected.transpose(1, 2).flatten(0, 1), rtol=1e-5, atol=1e-5)
    separable = SeparableConv(conv, clip, 5, "zeros")
    torch.testing.assert_close(separable(x), conv(x), rtol=0, atol=0)
    nn.init.normal_(separable.temporal.weight)
    spatial = conv(x).unflatten(0, (2, 4)).transpose(1, 2)
    expected = nn.functional.conv3d(spatial, separable.temporal.weight, padding=(2, 0, 0), groups=2)
    torch.testing.assert_close(separable(x), expected.transpose(1, 2).flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_strides_and_kernels_by_name_make_the_inflated_resnet_of_the_field():
    """I3D ResNet-50: 5x7x7 stem, 3x1x1 in front of chosen blocks, frames halved behind the stem, its pool and res2."""
    model = create_model(
        "i3d_resnet50",
        num_labels=400,
        time_kernel={"conv1": 5, "layer1.?.conv1": 3, "layer[23].[024].conv1": 3, "layer4.1.conv1": 3},
        time_strides={"act1": 2, "maxpool": 2, "layer1": 2},
    ).eval()
    assert model.num_inflated == 1 + 3 + 2 + 3 + 1
    assert sum(p.numel() for p in model.parameters()) == 28_043_472  # as published by three projects
    with torch.inference_mode():
        assert model.forward_features(torch.randn(1, 9, 3, 32, 32)).shape == (1, 1, 2048, 1, 1)
    with pytest.raises(ValueError, match="1 frames are left here, and 2 are merged into one"):
        model(torch.randn(1, 4, 3, 32, 32))


def test_strided_frames_are_the_maxima_and_recomputed_blocks_find_their_own_length():
    torch.manual_seed(0)
    model = create_model("p3d_mini", num_labels=2, time_strides={"blocks.0": 2}).eval()
    x = torch.randn(2, 7, 3, 32, 32)
    net, frames = model.backbone.net, model.backbone.norm(x.flatten(0, 1))
    first = net.blocks[0].block
    model.clip.num_frames = 7
    once = first(net.stem(frames)).unflatten(0, (2, 7))[:, :6].unflatten(1, (3, 2)).amax(2)  # the 7th frame has no pair
    assert net.blocks[0].after.num_frames == 1  # nothing has run yet
    features = model.forward_features(x)
    assert features.shape[:2] == (2, 3)
    torch.testing.assert_close(features, net.blocks[2](net.blocks[1](once.flatten(0, 1))).unflatten(0, (2, 3)))
    spared = copy.deepcopy(model)
    spared.set_gradient_checkpointing()
    for each in (model, spared):
        each(x).square().sum().backward()
    for ours, other in zip(model.parameters(), spared.parameters(), strict=True):
        torch.testing.assert_close(other.grad, ours.grad, rtol=1e-4, atol=1e-6)


def test_models_count_what_they_inflate_and_see_order():
    with torch.device("meta"):
        i3d, p3d = (create_model(f"{how}_resnet50", num_labels=400) for how in ("i3d", "p3d"))
    assert (i3d.num_inflated, p3d.num_inflated) == (17, 17)  # the stem and one 3x3 a block
    # Three temporal taps where there was one: 3 x the spatial weights, against t x C x C more of them.
    flat = 24_327_632
    spatial = 3 * 64 * 49 + 9 * (3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2)
    assert sum(p.numel() for p in i3d.parameters()) == flat + 2 * spatial
    temporal = 3 * (64**2 + 3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2)
    assert sum(p.numel() for p in p3d.parameters()) == flat + temporal
    model = create_model("i3d_mini", num_labels=4).eval()
    x = torch.randn(1, 6, 3, 32, 32)
    with torch.inference_mode():
        assert (model(x) - model(x.flip(1))).abs().max() < 1e-3  # at its start each filter is the same at every tap
        nn.init.normal_(model.backbone.net.blocks[0].conv1.weight)
        nn.init.normal_(model.classifier.weight)
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-3


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match="time_kernel must be odd, got 4"):
        inflate(nn.Conv2d(1, 1, 3), ClipLength(), time_kernel=4)
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="no convolution of Sequential is called stem"):
        inflate(net, ClipLength(), time_kernel={"stem": 3})
    with pytest.raises(ValueError, match="time_strides: 'layer1' must be a layer of Sequential"):
        inflate(net, ClipLength(), time_strides={"layer1": 2})
    with pytest.raises(ValueError, match="has no plain spatial convolution"):
        inflate(nn.Sequential(nn.Conv2d(1, 1, 1)), ClipLength())
    with pytest.raises(ValueError, match="padding 'same' cannot be inflated"):
        inflate(nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), ClipLength())
