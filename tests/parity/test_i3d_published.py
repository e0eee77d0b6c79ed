"""Inception-v1 I3D against piergiaj's port, RGB and flow."""

import pytest
import torch

from reeltag.hub.published import from_published


@pytest.mark.parametrize("name", [pytest.param("inception_i3d_rgb", marks=pytest.mark.slow), "inception_i3d_flow"])
def test_inception_i3d(name, visual_record):
    stored = visual_record(f"i3d__{name}")
    model = from_published(stored.weights(), source="i3d", name="i3d_inception")
    assert sum(p.numel() for p in model.parameters()) == stored.data["params"]
    with torch.inference_mode():
        features = model.forward_features(stored.clip())
        in_time = model.logits_in_time(features)
        stored.agree(in_time)  # the published network keeps the time axis
        torch.testing.assert_close(model.forward_head(features), in_time.mean(2), rtol=0, atol=0)
    for counted in stored.data["flops"]:
        *_, channels, frames, height, width = map(int, counted["input"].split("x"))
        clip = torch.empty(1, frames, channels, height, width, device="meta")
        assert model.flops(clip) / 2e9 == pytest.approx(counted["gmacs"], rel=0.01)
