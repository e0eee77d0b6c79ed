"""S3D, MViT and Video Swin through our interface give what torchvision's own code gave."""

import pytest
import torch

from reeltag.hub.published import from_published


@pytest.mark.parametrize(
    "name",
    [
        "s3d",
        pytest.param("mvit_v1_b", marks=pytest.mark.slow),
        pytest.param("mvit_v2_s", marks=pytest.mark.slow),
        "swin3d_t",
    ],
)
def test_adapted_networks_of_torchvision(name, visual_record):
    stored = visual_record(f"torchvision__{name}")
    model = from_published(stored.weights(), source="torchvision", name=name)
    assert sum(p.numel() for p in model.parameters()) == stored.data["params"]
    with torch.inference_mode():
        stored.agree(model(stored.clip()))
    for counted in stored.data["flops"]:
        *_, channels, frames, height, width = map(int, counted["input"].split("x"))
        clip = torch.empty(1, frames, channels, height, width, device="meta")
        assert model.flops(clip) / 2e9 == pytest.approx(counted["gmacs"], rel=0.01)
