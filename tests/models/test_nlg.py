"""Non-local gating: what it computes, on clips and on maps, and that padding is neither read nor written."""

import math

import pytest
import torch

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.layers.nonlocal_block import NonLocalBlock
from reeltag.models.nlg_pooling import POOLINGS, nonlocal_on_real_frames

SMALL = {"hidden": 8, "num_clusters": 3, "groups": 4}
LENGTHS = torch.tensor([4, 2, 1])


def small(pooling):
    return {key: value for key, value in SMALL.items() if key in POOLINGS[pooling][2]} | {"fc": 10, "dropout": 0.0}


def on_maps(pooling, **options):
    name = f"frames_nlg_{pooling}"
    return create_model(name, num_labels=5, feature_sizes=[8 * 6], map_px=[2, 3], **{**small(pooling), **options})


def shaken(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def clips():
    x = torch.randn(3, 4, 48, generator=torch.Generator().manual_seed(2))
    return x, torch.arange(4) < LENGTHS.unsqueeze(1)


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_padding_is_neither_read_nor_written(pooling):
    model = shaken(on_maps(pooling)).eval()
    x, mask = clips()
    with torch.inference_mode():
        whole = model(x.masked_fill(~mask.unsqueeze(-1), math.nan), mask)
        alone = torch.cat([model(x[i : i + 1, :n]) for i, n in enumerate(LENGTHS)])
    assert whole.isfinite().all()
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x, torch.ones(3, 4, dtype=torch.bool)), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_gradient_reaches_every_parameter_through_masks_too(pooling):
    model = shaken(on_maps(pooling)).train()
    model(*clips()).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"parameters the loss does not reach: {idle}"
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_statistics_of_the_blocks_norm_are_those_of_real_frames():
    torch.manual_seed(0)
    block = NonLocalBlock(6, pool="none").train()
    with torch.no_grad():
        block.norm.weight.fill_(1.0)
        block.out.weight.normal_()
    maps = torch.randn(3, 6, 4, 2, 2)
    mask = torch.arange(4) < LENGTHS.unsqueeze(1)
    found = nonlocal_on_real_frames(block, maps.masked_fill(~mask[:, None, :, None, None], math.inf), mask)
    wide = torch.cat([block.out(block.attend(maps[i : i + 1, :, :n])) for i, n in enumerate(LENGTHS)], dim=2)
    mean, var = wide.mean((0, 2, 3, 4)), wide.var((0, 2, 3, 4))  # running statistics take the unbiased variance
    torch.testing.assert_close(block.norm.running_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(block.norm.running_var, 0.9 + 0.1 * var, rtol=1e-4, atol=1e-6)
    assert not found.transpose(1, 2)[~mask].any()
    empty = nonlocal_on_real_frames(block, maps, torch.zeros(3, 4, dtype=torch.bool))
    assert not empty.any()


def test_nlg_by_hand():
    """Attention over all places of the clip, their mean, a layer with norm and ReLU, context gate, classifier."""
    model = shaken(on_maps("none")).eval()
    x = clips()[0]
    block, head = model.pooling.block, model.head
    with torch.no_grad():
        places = x.view(3, 4, 8, 6).permute(0, 1, 3, 2).reshape(3, 24, 8)  # (B, T * h * w, C)
        theta, phi, g = (places @ conv.weight.view(4, 8).t() + conv.bias for conv in (block.theta, block.phi, block.g))
        seen = (theta @ phi.transpose(1, 2)).softmax(-1) @ g
        out = seen @ block.out.weight.view(8, 4).t() + block.out.bias
        norm = block.norm
        out = (out - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        pooled = (places + out).mean(1)
        hidden = head.fc_norm(pooled @ head.fc.weight.t()).relu()
        gated = hidden * head.gate.norm(hidden @ head.gate.linear.weight.t()).sigmoid()
        expected = gated @ model.classifier.weight.t() + model.classifier.bias
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_the_same_on_clips_and_on_the_backbones_maps(pooling):
    """A frame network's maps, computed before, give what the whole model gives; the backbone's classifier is gone."""
    torch.manual_seed(0)
    whole = create_model(f"nlg_{pooling}", num_labels=5, backbone="tsn_mini", **small(pooling)).eval()
    shaken(whole)
    clip = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        maps = whole.backbone.forward_features(clip)  # (B, T, D, h, w)
        size = maps.shape[3:]
        cached = create_model(
            f"frames_nlg_{pooling}",
            num_labels=5,
            feature_sizes=[maps[0, 0].numel()],
            map_px=list(size),
            **small(pooling),
        ).eval()
        own = {k: v for k, v in whole.state_dict().items() if not k.startswith("backbone.")}
        cached.load_state_dict(own)
        torch.testing.assert_close(cached(maps.flatten(2)), whole(clip), rtol=1e-5, atol=1e-6)
    assert not any("backbone.classifier" in key for key in whole.state_dict())
    assert whole.blocks()
    whole.reset_classifier(2)
    assert whole(clip).shape == (2, 2)


def test_maps_have_their_channels_first_whatever_the_backbone():
    for backbone, shape in (("i3d_inception", (2, 1024, 2, 2, 2)), ("i3d_mini", (2, 128, 16, 8, 8))):
        with torch.device("meta"):
            model = create_model("nlg_lstm", num_labels=5, backbone=backbone, hidden=8, fc=10)
            clip = torch.zeros(2, 16, 3, 64, 64)
            assert model.maps(clip).shape == shape
            assert model(clip).shape == (2, 5)


def test_sizes_rise_from_small_to_big():
    sizes = []
    for size in ("", "_med", "_big"):
        with torch.device("meta"):
            model = create_model(f"nlg_nextvlad{size}", num_labels=313, backbone="tsn_mini")
        sizes.append(sum(p.numel() for p in model.pooling.parameters()))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


def test_bad_calls_are_named():
    with pytest.raises(RecipeError, match=r"a multiple of 2 x 3 values, got feature_sizes \[50\]"):
        create_model("frames_nlg_none", num_labels=3, feature_sizes=[50], map_px=[2, 3])
    with pytest.raises(RecipeError, match="has no option 'num_cluster'. Did you mean 'num_clusters'"):
        create_model("nlg_netvlad", num_labels=3, num_cluster=4)
    with pytest.raises(RecipeError, match="output='all' gives a vector per frame"):
        on_maps("lstm", output="all")
    with pytest.raises(ValueError, match="needs maps"):
        create_model("nlg_none", num_labels=3, backbone="convnet_lstm", backbone_options={"backbone": "mini"})(
            torch.zeros(1, 2, 3, 32, 32)
        )
