"""Slow, C2D, I3D and SlowFast under the weights of PyTorchVideo, PySlowFast, MMAction2 and X-Temporal."""

import pytest
import torch

from reeltag.errors import StoreError
from reeltag.hub.published import from_published

# Record, source, our name.
RECORDS = [
    ("pytorchvideo__slow_r50", "slow_r50"),
    ("pytorchvideo__i3d_r50", "i3d_r50"),
    ("pytorchvideo__slowfast_r50", "slowfast_r50"),
    pytest.param("pytorchvideo__slowfast_r101", "slowfast_r101", marks=pytest.mark.slow),
    pytest.param("pyslowfast__slow_8x8_r50", "slow_r50", marks=pytest.mark.slow),
    ("pyslowfast__i3d_8x8_r50", "i3d_r50"),
    ("pyslowfast__i3d_nln_8x8_r50", "i3d_r50"),
    ("pyslowfast__slowfast_4x16_r50", "slowfast_4x16_r50"),
    pytest.param("pyslowfast__slowfast_8x8_r50", "slowfast_r50", marks=pytest.mark.slow),
    pytest.param("pyslowfast__slowfast_16x8_r101_50_50", "slowfast_16x8_r101_50_50", marks=pytest.mark.slow),
    ("pyslowfast__slowfast_nln_8x8_r50", "slowfast_r50"),
    ("mmaction2__slowonly_r50_8x8", "slow_r50"),
    ("mmaction2__slowfast_r50_8x8", "slowfast_r50"),
    ("mmaction2__i3d_r50", "i3d_r50"),
    ("mmaction2__i3d_r50_nl_embedded_gaussian", "i3d_r50"),
    ("xtemporal__sfresnet50", "slowfast_r50"),
]
# This record is itself rounded: five softmaxes of dot products that nothing scales. MMAction2's own network, run again
# in float32 under the same weights, lands 1.4e-4 to 1.5e-3 of the record's deviation from it, by the number of threads
# alone, and 6.02e-4 in float64; there ours and theirs are 1.3e-15 apart. So float64 is compared, at that distance.
ROUNDED = {"mmaction2__i3d_r50_nl_embedded_gaussian": 7e-4}
AT_224 = ("slow_r50", "i3d_r50", "slowfast_r50", "slowfast_r101")


@pytest.mark.parametrize(("name", "ours"), RECORDS)
def test_outputs_and_sizes_equal_the_published_ones(visual_record, name, ours):
    record = visual_record(name)
    model = from_published(record.weights(), record.peer, ours)
    assert sum(p.numel() for p in model.parameters()) == record.data["params"]
    precision = torch.float64 if name in ROUNDED else torch.float32
    with torch.inference_mode():
        logits = model.to(precision)(record.clip().to(precision))
    output = record.cases[0]["output"]
    output = output.get("projection", output)  # PySlowFast: the logits before its softmax
    record.agree(logits.view(output["shape"]), tolerance=ROUNDED.get(name, 1e-4), output=output)


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_224)
def test_outputs_at_224_equal_those_of_the_hubs_fixed_heads(visual_record, name):
    record = visual_record(f"pytorchvideo__{name}")
    model = from_published(record.weights(), "pytorchvideo", name)
    with torch.inference_mode():
        record.agree(model(record.clip(1)), case=1)


def test_what_the_keys_say_becomes_an_option(visual_record):
    model = from_published(
        visual_record("pyslowfast__slowfast_nln_8x8_r50").weights(), "pyslowfast", "ctcnn_r50", shift=0.0
    )
    assert [list(stage.nonlocals) for stage in model.slow.stages] == [[], ["1", "3"], ["1", "3", "5"], []]
    layer = model.slow.stages[1].nonlocals["1"]
    assert (layer.pairing, layer.pool_place, layer.out.bias is None) == ("dot_product", "before", False)
    assert model.laterals[0].conv.kernel_size == (5, 1, 1)
    assert model.laterals[0].bn is not None


def test_non_local_options_of_mmaction2(visual_record):
    weights = visual_record("mmaction2__i3d_r50_nl_embedded_gaussian").weights()
    i3d = from_published(weights, "mmaction2", "i3d_r50")
    layer = i3d.stages[2].nonlocals["5"]
    assert (layer.pairing, layer.pool_place, layer.scale, layer.out.bias) == ("embedded_gaussian", "after", 1.0, None)
    assert i3d.stem.conv.stride == (2, 2, 2)
    assert i3d.stem.pool_stride == 2
    assert i3d.norm.shift.flatten()[0].item() == pytest.approx(-0.485 / 0.229, rel=1e-6)
    named = from_published(weights, "mmaction2", "i3d_nl_r50")
    assert named.stages[2].nonlocals["5"].pool_place == "after"
    masked = from_published(weights, "mmaction2", "i3d_masked_nl_r50").stages[2].nonlocals["5"]
    assert (masked.pool_place, masked.reach) == ("none", (1 / 2, 3 / 7, 3 / 7))
    bare = {k: v for k, v in weights.items() if ".non_local_block." not in k}
    with pytest.raises(StoreError, match="no non-local layer, and i3d_nl_r50 has some; their network is i3d_r50"):
        from_published(bare, "mmaction2", "i3d_nl_r50")
    gaussian = {k: v for k, v in weights.items() if ".theta." not in k and ".phi." not in k}
    assert from_published(gaussian, "mmaction2", "i3d_r50").stages[1].nonlocals["1"].pairing == "gaussian"


def test_c2d_and_other_depths_follow_from_the_keys(visual_record):
    """C2D has I3D's keys with temporal kernels of one; a deeper network has more blocks of the same names."""
    weights = {}
    for key, value in visual_record("pytorchvideo__i3d_r50").weights().items():
        weights[key] = value[:, :, :1] if value.ndim == 5 else value
        for block in range(6, 23) if ".res_blocks.5." in key and key.startswith("blocks.4.") else ():
            weights[key.replace(".res_blocks.5.", f".res_blocks.{block}.")] = weights[key]
    model = from_published(weights, "pytorchvideo", "c2d_r101")
    assert model.time_pool
    assert model.stem.conv.kernel_size == (1, 7, 7)
    assert len(model.stages[2].blocks) == 23
    assert sum(p.numel() for p in model.parameters()) == 43_319_760
    # The same keys without the pool's number are those of a network without it.
    fewer = {
        key.replace(f"blocks.{number}.", f"blocks.{number - 1}.", 1) if number > 1 else key: value
        for key, value in weights.items()
        for number in [int(key.split(".")[1])]
    }
    assert not from_published(fewer, "pytorchvideo", "c2d_r101").time_pool
    with pytest.raises(StoreError, match=r"3, 4, 23, 3 blocks a stage \(r101\), c2d_r50 has 3, 4, 6, 3"):
        from_published(weights, "pytorchvideo", "c2d_r50")
    with pytest.raises(StoreError, match="those of c2d_r101, not of slow_r101"):
        from_published(weights, "pytorchvideo", "slow_r101")


@pytest.mark.parametrize("source", ["pytorchvideo", "pyslowfast", "mmaction2", "xtemporal"])
def test_other_networks_are_refused(source):
    with pytest.raises(StoreError, match="no .* network known here has keys such as layer1.weight"):
        from_published({"layer1.weight": torch.zeros(2, 2)}, source, "slowfast_r50")


def test_two_layouts_in_one_file_are_refused():
    with pytest.raises(StoreError, match="no stem.conv.weight after renaming"):
        from_published({"backbone.layer1.0.conv1.conv.weight": torch.zeros(2, 2)}, "mmaction2", "slow_r50")
