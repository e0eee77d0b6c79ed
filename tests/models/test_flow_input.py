"""Quantised flow as the input of every kind of model: no motion is zero, a sign is a sign, and a start from RGB."""

import pytest
import torch
from torch import nn

from reeltag import create_model
from reeltag.hub.bundle import TrainedModel, load_weights, write_bundle
from reeltag.layers.pixel_norm import PixelNorm
from reeltag.media.flow import flow_image, quantise
from reeltag.recipe import recipe_with

MODELS_2D = ["tsn_mini", "tsm_mini", "tsn_bninception", "tsm_resnet18"]
MODELS_3D = ["i3d_resnet18", "p3d_resnet18", "i3d_inception", "i3d_r50", "p3d_63", "r2plus1d_18", "r3d_mini"]
BYTES = torch.arange(1, 256, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [2, 10])
@pytest.mark.parametrize("name", [*MODELS_2D, *MODELS_3D, "slowfast_r50"])
def test_no_motion_is_zero_and_a_flip_changes_the_sign(name, channels):
    model = create_model(name, num_labels=3, in_channels=channels)
    norms = [module for module in model.modules() if isinstance(module, PixelNorm)]
    assert norms
    for norm in norms:
        flow = norm(BYTES.view(-1, 1, 1, 1).expand(-1, channels, 1, 1))[..., 0, 0]  # (255, channels)
        torch.testing.assert_close(flow, -flow.flip(0), rtol=1e-5, atol=1e-6)
        assert flow[127].abs().max() < 1e-6  # byte 128
        assert (flow.diff(dim=0) > 0).all()
        assert torch.equal(flow, flow[:, :1].expand_as(flow))  # all channels alike


def first_convolution(model: nn.Module) -> nn.Module:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))


@pytest.mark.parametrize("channels", [2, 10])
@pytest.mark.parametrize("name", ["tsn_mini", "tsm_resnet18", "i3d_resnet18", "p3d_63", "r2plus1d_18"])
@torch.inference_mode()
def test_what_reaches_the_first_convolution_is_the_flow_over_its_bound(name, channels):
    torch.manual_seed(0)
    model = create_model(name, num_labels=3, in_channels=channels).eval()
    seen = []
    first_convolution(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    flow = torch.randn(2, 16, channels, 32, 32) * 8
    stored = quantise(flow)
    model(stored)
    steps = (stored.float() - 128) / 255  # 20 px are almost 1/2
    stds = {"tsn_mini": 0.25, "r2plus1d_18": (0.22803 + 0.22145 + 0.216989) / 3}  # the others: ImageNet's
    std = stds.get(name, (0.229 + 0.224 + 0.225) / 3)
    found = seen[0]
    clip = steps.flatten(0, 1) if found.ndim == 4 else steps.transpose(1, 2)
    torch.testing.assert_close(found, clip / std, rtol=1e-4, atol=1e-5)


def bundle_of(model, name: str, folder) -> str:
    recipe = recipe_with({"model": {"name": name}}, (), name)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    write_bundle(TrainedModel(folder, recipe, ["a", "b", "c"], weights, ""), folder)
    return str(folder)


@pytest.mark.parametrize("channels", [2, 10])
@pytest.mark.parametrize(
    ("name", "stems"),
    [("tsm_mini", 1), ("i3d_resnet18", 1), ("p3d_resnet18", 1), ("r3d_mini", 1), ("slowfast_r50", 2)],
)
def test_first_layers_start_from_the_mean_over_rgb(name, stems, channels, tmp_path):
    torch.manual_seed(0)
    rgb = create_model(name, num_labels=3)
    bundle = bundle_of(rgb, name, tmp_path / "rgb")
    flow = create_model(name, num_labels=3, in_channels=channels)
    assert load_weights(flow, bundle) == []
    theirs, ours = rgb.state_dict(), flow.state_dict()
    changed = [key for key in ours if ours[key].shape != theirs[key].shape]
    assert len(changed) == stems
    for key, tensor in ours.items():
        if key in changed:
            mean = sum(theirs[key][:, colour] for colour in range(3)) / 3
            for channel in range(channels):
                torch.testing.assert_close(tensor[:, channel], mean, rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(tensor, theirs[key]), key


@torch.inference_mode()
def test_a_grey_flow_clip_gives_what_the_rgb_model_gives_for_it_scaled(tmp_path):
    """All channels equal to x: the flow net's first convolution sees (channels / 3) times what the RGB net sees."""
    torch.manual_seed(0)
    rgb = create_model("tsn_resnet18", num_labels=3).eval()
    flow = create_model("tsn_resnet18", num_labels=3, in_channels=6).eval()
    load_weights(flow, bundle_of(rgb, "tsn_resnet18", tmp_path / "rgb"))
    x = torch.randn(1, 2, 1, 32, 32)  # floats are taken as normalised
    torch.testing.assert_close(
        flow(x.expand(-1, -1, 6, -1, -1) / 2), rgb(x.expand(-1, -1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )


@torch.inference_mode()
def test_images_of_flow_go_through_an_unchanged_rgb_model():
    torch.manual_seed(0)
    model = create_model("tsn_resnet18", num_labels=3).eval()
    images = flow_image(torch.randn(4, 2, 32, 32) * 15)  # (T, 3, H, W)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    by_hand = (images.float() / 255 - mean) / std
    torch.testing.assert_close(model(images[None]), model(by_hand[None]), rtol=1e-4, atol=1e-5)
