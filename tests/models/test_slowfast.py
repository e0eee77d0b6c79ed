"""SlowFast and CT-CNN: which frames each path sees, what the laterals carry, cost, and what is refused."""

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.models.bottleneck3d import Stem, shift_in_time, two_frames_at_once
from reeltag.models.slowfast import take_frames

# Name, options, (frames, pixels of the fast path), GMACs and parameters of their authors' code; 400 labels.
COUNTED = [
    ("slowfast_r50", {}, 32, 224, 50.31, 34_566_488),
    ("slowfast_r50", {}, 32, 256, 65.71, 34_566_488),
    ("slowfast_4x16_r50", {}, 32, 224, 27.64, 34_480_216),
    ("slowfast_r101", {}, 32, 224, 96.40, 62_826_968),
    ("slowfast_16x8_r101_50_50", {}, 64, 224, 163.09, 53_774_808),
    ("slowfast_r50", {"lateral_kernel": 5, "lateral_norm": False, "head_bias": False}, 32, 224, 49.99, 34_478_888),
    ("slowfast_r50", {"lateral_norm": False}, 32, 224, 50.31, 34_565_560),
]


@pytest.mark.parametrize(("name", "options", "frames", "side", "gmacs", "parameters"), COUNTED)
def test_cost_and_size_are_the_published_ones(name, options, frames, side, gmacs, parameters):
    with torch.device("meta"):
        model = create_model(name, num_labels=400, **options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    clip = torch.empty(1, frames, 3, side, side, device="meta")
    assert model.flops(clip) / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize(
    ("options", "frames", "expected"),
    [
        ({}, 32, [0, 4, 8, 13, 17, 22, 26, 31]),
        ({"slow_frames": "stride"}, 32, [0, 4, 8, 12, 16, 20, 24, 28]),
        ({"alpha": 8}, 32, [0, 10, 20, 31]),
        ({}, 44, [0, 4, 8, 12, 17, 21, 25, 30, 34, 38, 43]),  # 11x8 + 44x2
        ({}, 4, [0]),
        ({"alpha": 1}, 3, [0, 1, 2]),
    ],
)
def test_frames_of_the_slow_path(options, frames, expected):
    model = create_model("slowfast_mini", num_labels=2, **options).eval()
    assert model.frame_indices(frames) == expected
    seen = {}
    model.slow.stem.register_forward_pre_hook(lambda module, x: seen.update(slow=x[0]))
    model.fast.stem.register_forward_pre_hook(lambda module, x: seen.update(fast=x[0]))
    clip = torch.randn(1, frames, 3, 16, 16)
    model(clip)
    assert torch.equal(seen["slow"].transpose(1, 2), clip[:, expected])
    assert torch.equal(seen["fast"].transpose(1, 2), clip)


def test_linspace_in_whole_numbers_is_that_of_float32_up_to_159_frames():
    model = create_model("slowfast_mini", num_labels=2)
    for alpha in (2, 4, 8, 16):
        model.alpha = alpha
        for frames in range(alpha, 160, alpha):
            expected = torch.linspace(0, frames - 1, frames // alpha).long().tolist()
            assert model.frame_indices(frames) == expected, (alpha, frames)


def test_paths_meet_as_written():
    torch.manual_seed(0)
    model = create_model("slowfast_mini", num_labels=3, lateral_norm=False).eval()
    clip = torch.randn(2, 8, 3, 32, 32)
    with torch.inference_mode():
        x = clip.transpose(1, 2)
        slow, fast = model.slow.stem(x[:, :, [0, 7]]), model.fast.stem(x)
        for lateral, wide, narrow in zip(model.laterals, model.slow.stages, model.fast.stages, strict=True):
            carried = nn.functional.conv3d(fast, lateral.conv.weight, None, (4, 1, 1), (2, 0, 0))
            slow, fast = wide(torch.cat([slow, carried], 1)), narrow(fast)
        pooled = torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1)
        features = model.forward_features(clip)
        assert features.shape == (2, model.num_features, 2, 2, 2)
        torch.testing.assert_close(features.mean((2, 3, 4)), pooled, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(clip), model.classifier(pooled), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel", "frames"), [(5, 8), (3, 2), (1, 4)])
def test_frames_made_in_pairs_are_those_of_the_plain_convolution(kernel, frames):
    torch.manual_seed(0)
    stem = Stem(3, 8, kernel).double()
    x = torch.randn(2, 3, frames, 9, 12, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)
    found, expected = two_frames_at_once(x, stem.conv), stem.conv(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(y.square().sum(), stem.conv.weight)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    assert stem(x[:, :, :1]).shape == (2, 8, 1, 3, 3)  # an odd number goes the plain way


def test_frames_are_taken_in_memory_order():
    x = torch.randn(2, 3, 6, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    taken = take_frames(x, [5, 0, 0])
    assert torch.equal(taken, x[:, :, [5, 0, 0]])
    assert taken.is_contiguous(memory_format=torch.channels_last_3d)


def test_ctcnn_is_slowfast_with_shifted_branches_in_the_slow_path():
    torch.manual_seed(0)
    model = create_model("ctcnn_mini", num_labels=3).eval()
    assert {block.shift for stage in model.slow.stages for block in stage.blocks} == {1 / 8}
    assert {block.shift for stage in model.fast.stages for block in stage.blocks} == {0}
    twin = create_model("slowfast_mini", num_labels=3).eval()
    for block in [block for stage in model.slow.stages for block in stage.blocks]:
        nn.init.ones_(block.bn3.weight)
    twin.load_state_dict(model.state_dict())
    clip = torch.randn(1, 16, 3, 32, 32)
    with torch.inference_mode():
        shifted, plain = model(clip), twin(clip)
        assert (shifted - plain).abs().max() > 1e-3
        for block in [block for stage in twin.slow.stages for block in stage.blocks]:
            block.conv1.register_forward_pre_hook(lambda module, x: (shift_in_time(x[0], 1 / 8),))
        torch.testing.assert_close(twin(clip), shifted)
    assert create_model("ctcnn_mini", num_labels=3, shift=0.25).slow.stages[0].blocks[0].shift == 0.25


def test_temporal_kernels_of_the_16x8_network():
    with torch.device("meta"):
        model = create_model("slowfast_16x8_r101_50_50", num_labels=2)
    for path, before in ((model.slow, 1), (model.fast, 3)):
        kernels = [[block.conv1.kernel_size[0] for block in stage.blocks] for stage in path.stages]
        assert kernels == [[before] * 3, [before] * 4, [3] * 6 + [1] * 17, [3] * 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha is at least 1, got 0"),
        ({"beta": 1 / 5}, "whole number from 1 on, got 3.2"),
        ({"lateral_kernel": 4}, "lateral_kernel is odd, got 4"),
        ({"slow_frames": "random"}, "'linspace' or 'stride', got 'random'"),
        ({"fast_kernels": [[3], [3]]}, "same number of stages, got 3 and 2"),
        ({"shift": 0.6}, "0 to 1/2, got 0.6"),
    ],
)
def test_options_that_make_no_network_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        create_model("slowfast_mini", num_labels=5, **options)


def test_a_clip_whose_frames_do_not_divide_is_refused():
    model = create_model("slowfast_mini", num_labels=5)
    with pytest.raises(ValueError, match="multiple of alpha = 4, got 30"):
        model(torch.randn(1, 30, 3, 32, 32))


def test_recomputed_blocks_give_the_same_gradient():
    torch.manual_seed(0)
    model = create_model("ctcnn_mini", num_labels=2).eval()
    clip = torch.randn(1, 4, 3, 16, 16)
    gradients = []
    for enabled in (False, True):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        model(clip).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
