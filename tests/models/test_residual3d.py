"""R3D, R(2+1)D, C3D and P3D: what their blocks compute, by hand, and what clips they take."""

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.models.p3d import PseudoBlock
from reeltag.models.r2plus1d import Conv2Plus1D, mid_planes
from reeltag.models.residual3d import Place, ResidualBlock3D, ResNet3D, Stem3D, full_conv

SMALL = {"r3d_18": 4, "mc3_18": 4, "r2plus1d_18": 4, "p3d_63": 16, "r3d_mini": 4}


def exact(net):
    """Evaluation mode, with norms that change nothing at all."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eps = 0.0
    return net.eval()


def centre(conv, value):
    """A kernel that multiplies each channel by a number and looks nowhere else."""
    with torch.no_grad():
        conv.weight.zero_()
        middle = tuple(size // 2 for size in conv.weight.shape[2:])
        for channel in range(min(conv.weight.shape[:2])):
            conv.weight[(channel, channel, *middle)] = value


def test_mid_planes_of_the_paper_by_hand():
    # 27 * 64 * 64 / (9 * 64 + 3 * 64) = 110592 / 768; 27 * 64 * 128 / (9 * 64 + 3 * 128) = 221184 / 960 = 230.4
    assert [mid_planes(64, 64), mid_planes(64, 128), mid_planes(128, 128)] == [144, 230, 288]
    assert mid_planes(3, 64, 7) == 83  # 3 * 49 * 3 * 64 / (49 * 3 + 3 * 64) = 28224 / 339 = 83.3


@pytest.mark.parametrize("temporal_first", [False, True])
def test_two_plus_one_by_hand(temporal_first):
    conv = exact(Conv2Plus1D(1, 1, 1, stride=(2, 1, 1), temporal_first=temporal_first))
    with torch.no_grad():
        conv.spatial.weight.fill_(1.0)
        conv.temporal.weight.copy_(torch.tensor([0.0, 1.0, 10.0]).view(1, 1, 3, 1, 1))
    x = torch.arange(1.0, 5.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 3, 3)
    y = conv(x)
    assert y.shape == (1, 1, 2, 3, 3)
    # The centre sums nine equal pixels; frame t of stride 2 is x[t] + 10 x[t + 1]: 1 + 20 and 3 + 40.
    assert y[0, 0, :, 1, 1].tolist() == [9 * 21, 9 * 43]
    assert y[0, 0, 0, 0, 0] == 4 * 21


def test_negative_values_are_cut_between_the_halves():
    conv = exact(Conv2Plus1D(1, 1, 1))
    centre(conv.spatial, -1.0)
    centre(conv.temporal, -1.0)
    x = torch.tensor([2.0, -3.0]).view(1, 1, 2, 1, 1)
    assert conv(x).flatten().tolist() == [0.0, -3.0]  # -relu(-x)


@pytest.mark.parametrize(("form", "factor"), [("A", 6), ("B", 5), ("C", 8), ("-", 2)])
def test_the_forms_of_p3d_by_hand(form, factor):
    block = exact(PseudoBlock(4, 1, form, 1))
    for conv, value in ((block.conv1, 1.0), (block.spatial, 2.0), (block.conv3, 1.0)):
        centre(conv, value)
    if form != "-":
        centre(block.temporal, 3.0)
    x = torch.rand(1, 4, 3, 2, 2) + 0.1
    y = block(x)  # T = 3, S = 2: A = T(S(x)) = 6, B = T + S = 5, C = S + T(S(x)) = 8
    torch.testing.assert_close(y[:, 0], (1 + factor) * x[:, 0])
    torch.testing.assert_close(y[:, 1:], x[:, 1:])


def test_residual_block_by_hand():
    block = exact(ResidualBlock3D(2, 2, (1, 1, 1), full_conv))
    centre(block.conv1, 3.0)
    centre(block.conv2, -1.0)
    x = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1)
    assert block(x).flatten().tolist() == [0.0, 0.0]  # relu(1 - relu(3)), relu(-1 - relu(-3))
    centre(block.conv2, 1.0)
    assert block(x).flatten().tolist() == [4.0, 0.0]
    assert block.downsample is None
    assert ResidualBlock3D(2, 2, (2, 1, 1), full_conv).downsample is not None


def test_space_max_head_by_hand():
    stem = Stem3D(full_conv(Place(3, 2, (1, 1, 1), (3, 2))), 2)
    norm = create_model("r3d_mini", num_labels=2).norm
    net = ResNet3D(2, norm, stem, [1], [(1, 1, 1)], [full_conv], widths=[2], head_pool="space_max")
    features = torch.tensor([[[[[1.0, 5.0]], [[3.0, 2.0]]], [[[0.0, -1.0]], [[-4.0, -2.0]]]]])  # (1, 2, 2, 1, 2)
    assert net.forward_head(features, pre_logits=True).tolist() == [[4.0, -1.0]]  # (5 + 3) / 2, (0 - 2) / 2


def test_cells_head_by_hand():
    net = create_model("r3d_mini", num_labels=2, widths=(1, 1, 1), head_pool="cells", cells=(2, 1, 2)).eval()
    assert net.num_features == 4
    features = torch.tensor([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, -1.0, 6.0]]).view(1, 1, 2, 1, 4)  # two frames of 1 x 4
    assert net.forward_head(features, pre_logits=True).tolist() == [[5.0, 2.0, 4.0, 6.0]]
    with torch.no_grad():
        net.classifier.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0], [-1.0, 0.0, 1.0, 0.0]]))
    assert net.forward_head(features).tolist() == [[6.0, -1.0]]  # when and where count
    assert net(torch.rand(2, 5, 3, 40, 40)).shape == (2, 2)  # frames and sizes other than the default pool to as many


@pytest.mark.parametrize(
    ("name", "shape"), [("r3d_18", (2, 2)), ("mc3_18", (8, 2)), ("r2plus1d_18", (1, 2)), ("r3d_mini", (8, 4))]
)
def test_strides_of_time_and_space(name, shape):
    frames = 16 if name == "r3d_18" else 8
    with torch.device("meta"):
        model = create_model(name, num_labels=2)
        features = model.forward_features(torch.empty(1, frames, 3, 32, 32))
    assert features.shape[2:] == (shape[0], shape[1], shape[1])


@pytest.mark.parametrize(("seen_by", "reach"), [("first", 3), ("both", 6)])
def test_frames_that_reach_the_map_of_r3d_mini(seen_by, reach):
    torch.manual_seed(0)
    model = create_model("r3d_mini", num_labels=2, frames_seen_by=seen_by, widths=(8, 8, 8)).eval()
    clip = torch.randn(1, 15, 3, 32, 32)
    changed = clip.clone()
    changed[:, 7] += 1
    with torch.inference_mode():
        moved = (model.forward_features(clip) - model.forward_features(changed)).abs().amax((0, 1, 3, 4))
    # Each convolution over time carries a change one frame on.
    assert [t for t in range(15) if moved[t] > 0] == list(range(7 - reach, 8 + reach))


def test_r3d_mini_starts_as_tsm():
    torch.manual_seed(0)
    options = {"num_labels": 3, "widths": (8, 12, 16)}
    ours = create_model("r3d_mini", **options, frames_seen_by="first", temporal_init="shift", head_std=1.0).double()
    tsm = create_model("tsm_mini", num_labels=3, fraction=0.25, backbone_options={"widths": options["widths"]}).double()
    net = tsm.backbone.net
    pairs = [(ours.stem.conv, net.stem[0]), (ours.stem.bn, net.stem[1]), (ours.classifier, tsm.classifier)]
    for (block,), shifted in zip(ours.stages, net.blocks, strict=True):
        pairs += [(block.conv1, shifted.conv1.net), (block.conv2, shifted.conv2)]
        pairs += [(block.bn1, shifted.bn1), (block.bn2, shifted.bn2)]
        if block.downsample is not None:
            pairs += list(zip(block.downsample, shifted.downsample, strict=True))
    for source, target in pairs:
        # Each channel has one tap in time, so their sum is it.
        target.load_state_dict({k: v.sum(2) if v.ndim == 5 else v for k, v in source.state_dict().items()})
    assert sum(p.numel() for _, target in pairs for p in target.parameters()) == sum(
        p.numel() for p in tsm.parameters()
    )
    clip = torch.randn(2, 8, 3, 32, 32, dtype=torch.float64)
    for mode in (True, False):
        ours.train(mode), tsm.train(mode)
        ours.dropout.eval(), tsm.dropout.eval()
        torch.testing.assert_close(ours(clip), tsm(clip), rtol=1e-10, atol=1e-10)
    ours(clip).square().sum().backward()
    for block in ours.blocks():  # the taps that start at zero learn
        assert (block.conv1.weight.grad.abs().amax((0, 3, 4)) > 0).all()


@pytest.mark.parametrize(("name", "frames"), SMALL.items())
def test_gradients_reach_all_parameters_and_clips_do_not_mix(name, frames):
    torch.manual_seed(0)
    model = create_model(name, num_labels=5, dropout=0.0)
    x = torch.randn(2, frames, 3, 33, 31)
    model(x).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"parameters the loss does not reach: {idle}"
    model.eval()
    with torch.inference_mode():
        both = model(x)
        # Batches of other sizes sum in another order, and the logits of drawn weights grow with depth.
        torch.testing.assert_close(both[:1], model(x[:1]), rtol=1e-4, atol=1e-4 * both.abs().max().item())
        pixels = torch.randint(0, 256, x.shape, dtype=torch.uint8)
        assert (model(pixels) - model(pixels.flip(1))).abs().max() > 1e-4 * both.abs().max()  # order counts
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize("name", ["r2plus1d_18", "p3d_63", "r3d_50"])
def test_maps_stay_in_channels_last_order(name):
    """A layer that leaves the order costs copies, and the speed on CPUs and GPUs."""
    model = create_model(name, num_labels=2).eval()
    order, seen = torch.channels_last_3d, []
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.BatchNorm3d):
            module.register_forward_hook(
                lambda _, inputs, out: seen.append(all(t.is_contiguous(memory_format=order) for t in (*inputs, out)))
            )
            assert module.weight.ndim == 1 or module.weight.is_contiguous(memory_format=order)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(torch.randint(0, 256, (1, 16, 3, 32, 32), dtype=torch.uint8))
    assert len(seen) > 30
    assert all(seen)


def test_p3d_takes_longer_clips_whole_and_refuses_shorter_ones():
    torch.manual_seed(0)
    model = create_model("p3d_63", num_labels=3).eval()
    clip = torch.randn(1, 37, 3, 32, 32)
    with torch.inference_mode():
        features = model.forward_features(clip)
        assert features.shape[:3] == (1, 2048, 2)  # 37 -> 18 -> 9 -> 4 -> 2
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean((2, 3, 4)))
    with pytest.raises(ValueError, match="at least 16 frames, got 15"):
        model(clip[:, :15])


def test_c3d_takes_the_clips_it_was_built_for():
    with torch.device("meta"):
        model = create_model("c3d", num_labels=4, num_frames=8, size_px=64)
        assert model.fc6.in_features == 512 * 1 * 3 * 3  # 64 px: 4 behind the fourth pool, (4 + 2) // 2 behind the last
        assert model(torch.empty(2, 8, 3, 64, 64)).shape == (2, 4)
        assert model(torch.empty(2, 9, 3, 70, 64)).shape == (2, 4)  # what the pools cut off
        assert model.forward_features(torch.empty(1, 8, 3, 64, 64)).shape == (1, 512, 1, 3, 3)
        with pytest.raises(ValueError, match="takes 8 frames of 64 x 64 px, got 16 of 64 x 64"):
            model(torch.empty(1, 16, 3, 64, 64))
        with pytest.raises(ValueError, match="got 8 of 8 x 64"):
            model(torch.empty(1, 8, 3, 8, 64))
    with pytest.raises(RecipeError, match="needs at least 8 frames of 16 px, got num_frames 4"):
        create_model("c3d", num_labels=2, num_frames=4)


def test_c3d_of_quo_vadis_halves_time_first():
    """Its text counts 79 million parameters (table 1) with norms behind every layer."""
    with torch.device("meta"):
        model = create_model("c3d", num_labels=400, batch_norm=True, first_pool_frames=2)
        stages = []
        x = torch.empty(1, 3, 16, 112, 112)
        for stage in model.stages:
            x = stage(x)
            stages.append(x.shape[2])
        assert model(torch.empty(2, 16, 3, 112, 112)).shape == (2, 400)
    assert stages == [8, 4, 2, 1, 1]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(79, abs=1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r3d_18", {"form": "torchvison"}, "form is 'torchvision' or 'xtemporal', got 'torchvison'"),
        ("r3d_18", {"stages_3d": 5}, "from 0 to 4, got 5"),
        ("r2plus1d_34", {"form": "caffe2"}, "form is one of torchvision, vmz"),
        ("r2plus1d_34", {"mid_rule": "planes"}, "'conv', 'block' or 'same', got 'planes'"),
        ("p3d_63", {"forms": "ABD"}, "cycle of the letters A, B and C such as 'ABC', got 'ABD'"),
        ("c3d", {"first_pool_frames": 3}, "is 1 or 2, got 3"),
        ("r3d_mini", {"dropout": 1.0}, "a probability in"),
        ("r3d_mini", {"head_pool": "cells", "cells": (4, 0, 4)}, "cells are three counts from 1 on"),
        ("r3d_mini", {"head_pool": "max"}, "'mean', 'space_max' or 'cells', got 'max'"),
        ("r3d_mini", {"temporal_init": "zero"}, "temporal_init is 'normal' or 'shift', got 'zero'"),
        ("r3d_mini", {"frames_seen_by": "none"}, "frames_seen_by is 'first' or 'both', got 'none'"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with torch.device("meta"), pytest.raises(RecipeError, match=message):
        create_model(name, num_labels=2, **options)


def test_r3d_mini_exports():
    model = create_model("r3d_mini", num_labels=2).eval()
    x = torch.randn(2, 4, 3, 32, 32)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frames"), [("r2plus1d_18", 4), ("p3d_63", 16)])
def test_models_export_and_compile(name, frames):
    torch.manual_seed(0)
    model = create_model(name, num_labels=2).eval()
    x = torch.randn(1, frames, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        bound = 1e-4 * expected.abs().max().item()  # other kernels sum in another order
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected, rtol=1e-4, atol=bound)
        torch.testing.assert_close(torch.compile(model)(x), expected, rtol=1e-4, atol=bound)
