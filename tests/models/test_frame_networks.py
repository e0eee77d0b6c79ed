"""TSM's places, TIN and TRN on backbones, channel counts, and how they trace."""

import warnings

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.hub import from_published
from reeltag.layers.nonlocal_block import NonLocalBlock
from reeltag.layers.temporal_interlace import TemporalInterlace
from reeltag.layers.temporal_shift import TemporalShift, temporal_shift
from reeltag.models.image2d import build_backbone, fit_input_channels, list_backbones
from reeltag.models.tsm_nonlocal import default_places

NAMES = ["tin_mini", "trn_mini", "trn_single_mini", "tsm_nl_resnet18", "tin_resnet18", "tsn_bninception"]


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, num_labels=7, **options)


@pytest.mark.parametrize("name", NAMES)
def test_model_contract(name):
    torch.manual_seed(0)
    model = create_model(name, num_labels=5, num_frames=4, dropout=0.0)
    with torch.no_grad():  # zero-initialised norms and identity starts would hide parameters from the gradient
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 4, 3, 64, 64)
    logits = model(x)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias in front of a batch norm is taken away again: its gradient is rounding, or exactly zero.
    idle = [n for n in idle if not (name.endswith("bninception") and n.endswith("conv.bias"))]
    assert not idle, f"parameters the loss does not reach: {idle}"
    model.eval()
    with torch.inference_mode():
        # Clips do not mix. The tolerance is for batch size 1 summing in another order.
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-4)
        twin = create_model(name, num_labels=5, num_frames=4, dropout=0.0).eval()
        twin.load_state_dict(model.state_dict())
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        assert features.shape == (2, model.num_features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(x).isfinite().all()
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.set_bias(torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("name", ["tsm_mini", "tin_mini", "trn_mini", "trn_single_mini"])
def test_gradient_checkpointing_changes_no_gradient(name):
    x = torch.randn(2, 4, 3, 32, 32)
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = create_model(name, num_labels=3, num_frames=4, dropout=0.0)
        model.set_gradient_checkpointing(enabled)
        torch.manual_seed(1)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tsn_mini", "tsm_mini", "tin_mini", "trn_mini", "trn_single_mini"])
def test_exports_for_any_batch(name):
    torch.manual_seed(0)
    model = create_model(name, num_labels=3, num_frames=4).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.export on its own parts
        program = torch.export.export(model, (torch.randn(2, 4, 3, 32, 32),), dynamic_shapes=({0: batch},))
    x = torch.randn(3, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow  # the compiler needs its time
@pytest.mark.parametrize("name", ["tsm_mini", "tin_mini", "trn_mini"])
def test_compiles_without_a_break_for_two_lengths(name):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = create_model(name, num_labels=3, num_frames=4).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for frames in (4,) if name != "tsm_mini" else (4, 6):
        x = torch.randn(2, frames, 3, 32, 32)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
        if name != "trn_mini":  # draws of training are Python
            compiled(x).sum().backward()


def test_block_placement_shifts_what_the_shortcut_sees():
    torch.manual_seed(0)
    model = create_model("tsm_mini", num_labels=3, place="block", fraction=0.25).eval()
    assert count(model, TemporalShift) == 3
    assert "backbone.net.blocks.1.net.downsample.0.weight" in model.state_dict()
    block = model.backbone.net.blocks[1]
    model.clip.num_frames = 2
    x = torch.randn(4, 32, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.net(temporal_shift(x, 2, 0.25)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backbone", "options", "shifts"),
    [
        ("resnet101", {}, 18),
        ("resnet101", {"shift_every": 1}, 33),
        ("resnet101", {"place": "block"}, 33),
        ("resnet50", {"shift_every": 3}, 6),
        ("mobilenetv2", {}, 10),  # the blocks with a shortcut
        ("inception_resnet_v2", {}, 10 * 3 + 20 * 2 + 10 * 2),  # each branch of each block
        ("senet154", {}, 26),
    ],
)
def test_where_the_shift_stands(backbone, options, shifts):
    assert count(on_meta(f"tsm_{backbone}", **options), TemporalShift) == shifts


def test_tin_on_every_convolution_or_the_first():
    assert count(on_meta("tin_resnet50"), TemporalInterlace) == 16
    assert count(on_meta("tin_resnet101", num_frames=16), TemporalInterlace) == 33  # no rule for deep networks
    assert count(on_meta("tin_resnet50", place="every_conv"), TemporalInterlace) == 48
    assert count(on_meta("tin_resnet18", place="every_conv", num_frames=4), TemporalInterlace) == 16


def test_tin_at_whole_offsets_is_a_shift_of_features():
    torch.manual_seed(0)
    model = create_model("tin_mini", num_labels=3, num_frames=4, shift_div=1).eval()
    layer = model.backbone.net.blocks[0].conv1.interlace
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.offset_net.fc2.bias.fill_(torch.tensor(0.75).logit())  # offsets of one frame
        x = torch.randn(4, 32, 5, 5)
        both = torch.cat((torch.zeros(1, 16, 5, 5), x[:-1, :16])), torch.cat((x[1:, 16:], torch.zeros(1, 16, 5, 5)))
        torch.testing.assert_close(layer(x), torch.cat(both, 1), rtol=1e-4, atol=1e-5)  # the logit is rounded


def test_costs_equal_the_published_ones():
    clip = torch.zeros(1, 8, 3, 224, 224, device="meta")
    wanted = {"tsn_resnet50": 32.70, "tsm_resnet101": 62.40, "tsm_nl_resnet50": 61.10, "tin_resnet50": 32.70}
    wanted |= {"trn_resnet50": 32.71, "trn_bninception": 16.26}
    for name, gmacs in wanted.items():
        model = on_meta(name)
        assert model.flops(clip) / 2e9 == pytest.approx(gmacs, rel=0.01), name


def test_published_sizes():
    """Of networks without a record: single-scale TRN of three frames, and TIN of sixteen."""
    with torch.device("meta"):
        single = create_model("trn_single_resnet50", num_labels=174, num_frames=3)
        assert sum(p.numel() for p in single.parameters()) == 24_515_566
        shapes = {"resnet269": 2048, "se_resnet152": 2048, "resnext101": 2048, "inception_v3": 2048, "dpn107": 2688}
        for name, width in shapes.items():
            assert create_model(f"tsn_{name}", num_labels=3).num_features == width
        deep = build_backbone("resnet269").net
    assert [len(getattr(deep, f"layer{index}")) for index in (1, 2, 3, 4)] == [3, 30, 48, 8]


def test_single_scale_trn_loads_under_either_name():
    """No record holds one: the published layout is written from ours, and must come back."""
    torch.manual_seed(0)
    ours = create_model("trn_single_resnet18", num_labels=6, num_frames=5).eval()
    published = {}
    for key, value in ours.state_dict().items():
        for name, theirs in (
            ("backbone.net.", "base_model."),
            ("project.", "new_fc."),
            ("classifier.hidden.0.", "consensus.classifier.1."),
            ("classifier.out.0.", "consensus.classifier.3."),
        ):
            key = key.replace(name, theirs)
        published[f"module.{key}"] = value
    back = from_published({"state_dict": published}, source="trn", name="trn_resnet18")
    x = torch.randn(1, 5, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(back(x), ours(x), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 10])
def test_first_convolution_is_averaged_over_channels(channels, tmp_path):
    torch.manual_seed(0)
    rgb = create_model("tsm_resnet18", num_labels=4)
    weights = {"state_dict": {k.replace("backbone.net.", "base_model."): v for k, v in rgb.state_dict().items()}}
    flow = from_published(weights, source="tsm", name="tsm_resnet18", in_channels=channels)
    kernel = flow.backbone.net.conv1.weight
    assert kernel.shape[1] == channels
    torch.testing.assert_close(kernel, rgb.backbone.net.conv1.weight.mean(1, keepdim=True).expand_as(kernel))
    again = from_published(
        {k.replace("backbone.net.", "base_model."): v for k, v in flow.state_dict().items()}, "tsm", "tsm_resnet18"
    )
    assert again.backbone.net.conv1.weight.shape[1] == channels  # read from the keys

    # The same for timm's pretrained weights, from a file in place of the network.
    file = tmp_path / "resnet18.pth"
    torch.save(build_backbone("resnet18").net.state_dict(), file)
    overlay = {"file": str(file), "url": "", "hf_hub_id": None, "num_classes": 0}
    net = build_backbone("resnet18", in_channels=channels, pretrained=True, pretrained_cfg_overlay=overlay).net
    saved = torch.load(file, weights_only=True)
    torch.testing.assert_close(net.conv1.weight[:, -1], saved["conv1.weight"].mean(1))
    torch.testing.assert_close(net.layer4[1].conv2.weight, saved["layer4.1.conv2.weight"], rtol=0, atol=0)


def test_only_what_differs_as_the_first_convolution_does_is_fitted():
    own = {"a": torch.zeros(4, 2, 3, 3), "b": torch.zeros(4, 2, 1, 1), "c": torch.zeros(4, 2, 1, 1)}
    fitted = fit_input_channels(
        {"a": torch.ones(4, 3, 3, 3), "b": torch.ones(4, 3, 1, 1), "c": torch.ones(4, 5, 1, 1)}, own
    )
    assert fitted["a"].shape == (4, 2, 3, 3)
    assert fitted["b"].shape == (4, 2, 1, 1)  # the second path of a network with two
    assert fitted["c"].shape == (4, 5, 1, 1)


def test_bninception_turns_uint8_frames_round():
    norm = build_backbone("bninception").norm
    pixels = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    assert norm(pixels).flatten().tolist() == pytest.approx([50 - 104, 100 - 117, 200 - 123], abs=1e-3)
    flow = build_backbone("bninception", in_channels=10).norm
    assert flow(torch.full((1, 10, 1, 1), 130, dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [2.0] * 10, abs=1e-4
    )


def test_polynet_blocks_by_hand():
    from reeltag.models.polynet import PolyBlock, TwoWayBlock

    torch.manual_seed(0)
    branches = (((3, 1), (5, (1, 3))), ((2, 1),))
    x = torch.randn(1, 4, 6, 6).relu()
    two = TwoWayBlock(4, branches, 0.5).eval()
    poly = PolyBlock(4, branches, 0.5, order=2).eval()
    with torch.inference_mode():
        torch.testing.assert_close(two(x), (x + 0.5 * (two.ways[0](x) + two.ways[1](x))).relu())

        def apply(x, power):
            ends = [branch_of(poly.branches[0], x, power), branch_of(poly.branches[1], x, power)]
            return poly.merges[power](torch.cat(ends, 1))

        def branch_of(branch, x, power):
            for conv in branch:
                x = nn.functional.relu(conv.bns[power](conv.conv(x)))
            return x

        first = apply(x, 0)
        expected = (x + 0.5 * first + 0.5 * apply(first.relu(), 1)).relu()
        torch.testing.assert_close(poly(x), expected)


def test_nonlocal_blocks_stand_where_published_and_where_told():
    model = on_meta("tsm_nl_resnet50")
    assert count(model, NonLocalBlock) == 5
    keys = model.state_dict()
    assert "backbone.net.layer2.0.nl.theta.weight" in keys
    assert "backbone.net.layer3.4.block.conv1.net.weight" in keys
    assert default_places(model.backbone.net) == {"layer2": [0, 2], "layer3": [0, 2, 4]}
    assert count(on_meta("tsm_nl_resnet18"), NonLocalBlock) == 4
    assert count(on_meta("tsm_nl_mini"), NonLocalBlock) == 2
    assert count(on_meta("tsm_nl_resnet101", places={"layer3": [6, 13, 20]}), NonLocalBlock) == 3
    with pytest.raises(RecipeError, match="to follow blocks .9. of layer2, and ResNet has 4 blocks"):
        on_meta("tsm_nl_resnet50", places={"layer2": [9]})


def test_short_names_are_listed():
    assert "polynet" in list_backbones("poly*")
    assert "resnet269" in list_backbones("*269")
    assert list_backbones("senet154") == ["senet154"]


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match="made for 8 frames a clip, got 4; build it with num_frames="):
        create_model("tin_mini", num_labels=3)(torch.zeros(1, 4, 3, 32, 32))
    with pytest.raises(ValueError, match="this TRN is made for 8 frames a clip, got 4"):
        create_model("trn_mini", num_labels=3)(torch.zeros(1, 4, 3, 32, 32))
    with pytest.raises(RecipeError, match="need branches that begin with a convolution|needs branches that begin"):
        on_meta("tin_vit_tiny_patch16_224")
    with pytest.raises(RecipeError, match="place must be 'residual' or 'block', got 'inside'"):
        on_meta("tsm_mini", place="inside")
    with pytest.raises(RecipeError, match="place must be 'conv1' or 'every_conv', got 'conv2'"):
        on_meta("tin_mini", place="conv2")
    with pytest.raises(RecipeError, match="shift_every counts blocks and must be at least 1, got 0"):
        on_meta("tsm_mini", shift_every=0)
    with pytest.raises(RecipeError, match="relations need at least 2 frames a clip, got 1"):
        on_meta("trn_mini", num_frames=1)
    with pytest.raises(RecipeError, match="resnet269 has no published image weights"):
        on_meta("tsn_resnet269", pretrained=True)
    with pytest.raises(RecipeError, match="polynet has no weights to fetch"):
        on_meta("tsn_polynet", pretrained=True)
    with pytest.raises(RecipeError, match="grid is the side of a grid of cells and must be at least 1, got 0"):
        on_meta("trn_mini", backbone_options={"grid": 0})
