"""Slow, C2D, I3D and fast-only ResNets: cost, kernels, start, memory order, and what they refuse."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.models.bottleneck3d import Bottleneck3D, over_time, shift_in_time
from reeltag.models.image2d import build_backbone
from reeltag.models.image_start import image_weights, start_from_image_weights
from reeltag.models.video_resnet import FORMS

TINY = {"width": 8, "kernels": [[1], [3], [1, 3]], "num_labels": 5}

# (frames, pixels) and the GMACs that their authors' own code counts.
COUNTED = [
    ("slow_r50", {}, 8, 224, 41.74),
    ("slow_r50", {}, 8, 256, 54.52),
    ("c2d_r50", {}, 8, 224, 19.49),
    ("i3d_r50", {}, 8, 224, 28.41),
    ("i3d_r50", {"time_strides": (2, 2)}, 32, 224, 33.13),
    ("i3d_nl_r50", {}, 8, 224, 36.54),
    ("i3d_nl_r50", {"time_strides": (2, 2), "pool": "after"}, 32, 224, 44.34),
]


def gmacs(model, frames, side):
    return model.flops(torch.empty(1, frames, 3, side, side, device="meta")) / 2e9


def meta(name, **options):
    with torch.device("meta"):
        return create_model(name, num_labels=400, **options)


@pytest.mark.parametrize(("name", "options", "frames", "side", "published"), COUNTED)
def test_cost_is_the_published_one(name, options, frames, side, published):
    assert gmacs(meta(name, **options), frames, side) == pytest.approx(published, rel=0.01)


def test_fast_alone_at_full_width_costs_four_times_its_slowfast():
    ratio = gmacs(meta("fast_r101"), 32, 224) / gmacs(meta("slowfast_r101"), 32, 224)
    assert ratio == pytest.approx(3.95, abs=0.01)


def test_temporal_kernels_by_form_and_depth():
    assert FORMS["slow"].kernels(50) == [[1] * 3, [1] * 4, [3] * 6, [3] * 3]
    assert FORMS["i3d"].kernels(101)[2] == [3, 1] * 11 + [3]
    assert FORMS["i3d"].kernels(50)[3] == [1, 3, 1]
    assert [len(stage) for stage in FORMS["fast"].kernels(200)] == [3, 24, 36, 3]
    with pytest.raises(ValueError, match="depth is one of 50, 101, 152, 200, got 18"):
        FORMS["c2d"].kernels(18)


def test_bottleneck_by_hand():
    block = Bottleneck3D(8, 2, kernel=3, shift=1 / 4).eval()
    x = torch.randn(1, 8, 3, 2, 2)
    y = torch.zeros_like(x)  # frames move within the first quarters alone
    y[:, :2, :2], y[:, 2:4, 1:], y[:, 4:] = x[:, :2, 1:], x[:, 2:4, :2], x[:, 4:]
    assert torch.equal(shift_in_time(x, 1 / 4), y)
    for conv in (block.conv1, block.conv2, block.conv3):
        y = nn.functional.conv3d(y, conv.weight, None, 1, conv.padding) / (1 + 1e-5) ** 0.5
        y = y if conv is block.conv3 else y.clamp_min(0)
    torch.testing.assert_close(block(x), (x + y).clamp_min(0))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_over_time_is_the_same_as_a_matrix_product(kernel):
    torch.manual_seed(0)
    padding = (kernel // 2, 0, 0)
    conv = nn.Conv3d(1024, 1024, (kernel, 1, 1), padding=padding, bias=False).double()
    x = torch.randn(1, 1024, 3, 2, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)
    called = []
    conv.register_forward_hook(lambda *_: called.append(1))
    found = over_time(x, conv)
    assert not called
    torch.testing.assert_close(found, conv(x), rtol=1e-10, atol=1e-10)
    many = torch.randn(1, 1024, 3, 16, 16)
    assert torch.equal(over_time(many, conv.float()), conv(many))
    assert len(called) == 3


def test_start_is_the_published_one():
    torch.manual_seed(0)
    model = create_model("i3d_r50", **TINY)
    stage = model.stages[2]
    x = torch.randn(2, 64, 4, 6, 6)
    torch.testing.assert_close(stage(x), stage.blocks[0].downsample(x).clamp_min(0))  # the last norms are at zero
    drawn = model.stages[2].blocks[1].conv2.weight  # (32, 32, 1, 3, 3)
    assert drawn.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    plain = create_model("i3d_r50", **TINY, zero_init_last=False)
    assert plain.stages[2].blocks[1].bn3.weight.eq(1).all()


@pytest.mark.parametrize("name", ["i3d_nl_r50", "i3d_masked_nl_r50", "i3d_relation_r50"])
def test_non_local_layers_stand_where_they_are_put_and_start_as_nothing(name):
    torch.manual_seed(0)
    model = create_model(name, num_labels=5, width=4).eval()
    assert [list(stage.nonlocals) for stage in model.stages] == [[], ["1", "3"], ["1", "3", "5"], []]
    assert len(model.blocks()) == 16 + 5
    bare = create_model("i3d_r50", num_labels=5, width=4).eval()
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if ".nonlocals." not in k})
    clip = torch.randn(1, 8, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(clip), bare(clip), rtol=0, atol=0)
        for stage in model.stages:
            for layer in stage.nonlocals.values():
                nn.init.ones_(layer.norm.bias)
        assert (model(clip) - bare(clip)).abs().max() > 0.01  # and none is passed by


class Clones(TorchDispatchMode):
    """Count the tensors that are written out again, for a change of memory order."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("clone", "contiguous")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["i3d_r50", "slowfast_mini", "ctcnn_mini"])
def test_clips_keep_the_order_that_convolutions_like(name):
    model = create_model(name, **(TINY if name == "i3d_r50" else {"num_labels": 5})).eval()
    orders = []
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(
                lambda module, x: orders.append(
                    x[0].is_contiguous(memory_format=torch.channels_last_3d)
                    and module.weight.is_contiguous(memory_format=torch.channels_last_3d)
                )
            )
    # In bfloat16, as by default: in float32 some of torch's convolutions on one thread give the other order.
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), Clones() as clones:
        model(torch.randn(2, 8, 3, 32, 32))
    assert all(orders)
    assert len(orders) > 10
    assert name == "ctcnn_mini" or clones.count == 1  # the way in; a shift writes a new tensor anyway


def test_a_still_clip_gives_the_map_of_the_2d_network_whose_weights_were_inflated():
    torch.manual_seed(0)
    net = build_backbone("resnet50").net.eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    image = torch.randn(1, 3, 40, 40)
    still = image.unsqueeze(1).expand(-1, 4, -1, -1, -1)
    model = create_model("c2d_r50", num_labels=5).eval()
    start_from_image_weights(model, net.state_dict())
    with torch.inference_mode():
        expected = net.forward_features(image)  # (1, 2048, 2, 2)
        found = model.forward_features(still)  # (1, 2048, 2, 2, 2)
    for frame in found.unbind(2):
        torch.testing.assert_close(frame, expected, rtol=1e-4, atol=1e-4 * expected.std().item())
    flow = create_model("i3d_r50", num_labels=5, in_channels=2)
    start_from_image_weights(flow, net.state_dict())
    torch.testing.assert_close(flow.stem.conv.weight.sum(2)[:, 1], net.conv1.weight.mean(1))
    shallow = create_model("i3d_r50", num_labels=5, kernels=[[1], [1], [1], [1]])
    with pytest.raises(ValueError, match=r"layer1.1.conv1.weight has no place in VideoResNet"):
        start_from_image_weights(shallow, net.state_dict())
    with pytest.raises(ValueError, match=r"no weights for stages.0.blocks.2.\S+ and \d+ more"):
        start_from_image_weights(model, {k: v for k, v in net.state_dict().items() if "layer1.2" not in k})
    with pytest.raises(ValueError, match="depths 50, 101, 152, not 200"):
        image_weights(200)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": [[1, 2]]}, "temporal kernels are odd .*, got 2"),
        ({"kernels": [[1], []]}, "one list a stage"),
        ({"stem_kernel": 4}, "stem's temporal kernel is odd"),
        ({"nonlocal_blocks": [[], [4]]}, "behind blocks 0 to 3"),
        ({"nonlocal_blocks": [[], [1]], "nonlocal_options": {"pairing": "l2"}}, "pairing is one of"),
        ({"nonlocal_blocks": [[1]], "nonlocal_options": {"pairng": "x"}}, "Did you mean 'pairing'"),
    ],
)
def test_options_that_make_no_network_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        create_model("slow_r50", num_labels=5, width=4, **options)


def test_too_short_a_clip_is_refused():
    model = create_model("i3d_r50", **TINY, time_strides=(2, 2)).eval()
    assert model(torch.randn(1, 5, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(ValueError, match="at least 5 frames, got 4"):
        model(torch.randn(1, 4, 3, 32, 32))
