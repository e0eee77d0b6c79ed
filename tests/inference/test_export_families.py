"""Every family of models as ONNX and as a pt2 archive: the same numbers for any batch, and the axes that stay free."""

import re

import pytest
import torch

import reeltag
from reeltag.build import build_model
from reeltag.hub.bundle import TrainedModel, write_bundle
from reeltag.inference.export.exporting import open_exported
from reeltag.inference.export.network import draw
from reeltag.inference.load import load_trained
from reeltag.recipe import recipe_with

SMALL = {"backbone_options": {"widths": [8, 16]}}
STREAMS = {
    "rgb": {"name": "tsm_mini", **SMALL},
    "flow": {"name": "tsn_mini", **SMALL},
    "audio": {"name": "logmel_mini", **SMALL},
}
SIDES = {"height", "width"}
CLIP = {"frames", *SIDES}
BOTH = {f"{name}_{axis}" for name in ("video", "flow") for axis in CLIP}
ALL = {*BOTH, "samples"}
SETS = {"feature_sizes": [24, 8]}
MAPS = {"feature_sizes": [32], "num_clusters": 4, "groups": 4, "hidden": 8}
# Options of the model, (frames, side) of its clips, and which axes the file leaves free, by name of the model.
FAMILIES = {
    "tsn_mini": (SMALL, (4, 32), CLIP),
    "tsm_mini": (SMALL, (4, 32), CLIP),
    "tin_mini": ({}, (8, 32), SIDES),
    "trn_mini": ({}, (8, 32), SIDES),
    "trn_single_mini": ({}, (8, 32), SIDES),
    "tsm_nl_mini": ({}, (4, 32), SIDES),
    "i3d_mini": (SMALL, (4, 32), CLIP),
    "p3d_mini": (SMALL, (4, 32), CLIP),
    "ctcnn_mini": ({}, (8, 32), None),
    "slowfast_mini": ({}, (8, 32), SIDES),
    "r3d_mini": ({}, (4, 32), CLIP),
    "r2plus1d_18": ({}, (8, 32), {"height", "width"}),
    "mc3_18": ({}, (8, 32), None),
    "c3d": ({"size_px": 64}, (8, 64), None),
    "s3d": ({}, (16, 64), None),
    "p3d_63": ({}, (16, 64), None),
    "i3d_r50": ({}, (8, 64), None),
    "i3d_nl_r50": ({}, (8, 64), None),
    "i3d_masked_nl_r50": ({}, (8, 64), None),
    "i3d_relation_r50": ({}, (8, 64), None),
    "mvit_v2_s": ({}, (16, 224), None),
    "swin3d_t": ({}, (8, 64), None),
    "convnet_lstm": ({"backbone": "mini", **SMALL}, (4, 32), None),
    "two_stream_mini": ({"flow_channels": 2, **SMALL}, (4, 32), BOTH),
    "two_stream_3d_fused": ({"backbone": "mini", "flow_channels": 2}, (8, 64), None),
    "nlg_none": ({"backbone": "tsm_mini"}, (4, 32), None),
    "nlg_lstm": ({"backbone": "tsm_mini", "hidden": 8}, (4, 32), None),
    "fusion_gated": ({"streams": STREAMS, "width": 16}, (4, 32), ALL),
    "fusion_transformer": ({"streams": STREAMS, "width": 16}, (4, 32), ALL),
    "m3": ({}, None, {"samples"}),
    "m5": ({}, None, {"samples"}),
    "envnet": ({}, None, set()),
    "vggish": ({}, None, None),
    "logmel_mini": (SMALL, None, {"samples"}),
    "mfcc_mini": (SMALL, None, {"samples"}),
    **{f"frames_{name}": (SETS, None, {"frames"}) for name in ("mean", "moe", "max", "attention", "probe")},
    **{f"frames_{name}": ({**SETS, "num_clusters": 4}, None, {"frames"}) for name in ("netvlad", "netfv", "netrvlad")},
    **{f"frames_{name}": ({**SETS, "hidden": [8, 6]}, None, {"frames"}) for name in ("conv", "late")},
    **{f"frames_{name}": ({**SETS, "hidden": [8, 6]}, None, None) for name in ("slow", "local", "time_conv")},
    **{f"frames_{name}": ({**SETS, "hidden": 8}, None, None) for name in ("lstm", "blstm", "gru", "lstm_steps")},
    "frames_nextvlad": ({**SETS, "num_clusters": 4, "groups": 4}, None, {"frames"}),
    "frames_nlg_none": ({"feature_sizes": [32]}, None, None),
    "frames_nlg_lstm": ({"feature_sizes": [32], "hidden": 8}, None, None),
}
QUICK = {
    ("pt2", "two_stream_mini"),
    ("pt2", "frames_local"),
    ("pt2", "m3"),
    ("onnx", "logmel_mini"),
    ("onnx", "frames_mean"),
}
CASES = [
    pytest.param(form, name, marks=[] if (form, name) in QUICK else [pytest.mark.slow])
    for form in ("pt2", "onnx")
    for name in FAMILIES
]


def bundle_of(name, folder):
    """A bundle of the model with stirred weights, as training would leave it: no zero start hides a part."""
    options, size, _ = FAMILIES[name]
    frames, side = size or (12, 32)
    audio = {"seconds": 1.5009} if name == "envnet" else {"seconds": 1.0}
    audio = {**audio, "rate_hz": 16_000}
    model = {"name": name, **options}
    data = {"num_frames": frames, "short_side_px": side, "crop_px": side, "audio": audio}
    recipe = recipe_with({"model": model, "data": data}, [], name)
    torch.manual_seed(1)
    network = build_model(recipe, 5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trained = TrainedModel(folder, recipe, [f"label{n}" for n in range(5)], network.state_dict(), "none")
    return write_bundle(trained, folder / "bundle")


@pytest.mark.parametrize(("form", "name"), CASES)
def test_the_file_gives_the_models_numbers_for_any_batch(form, name, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    bundle = bundle_of(name, tmp_path)
    exported = reeltag.export(bundle, tmp_path / f"model.{form}")
    opened = open_exported(exported.path)
    names = [each.name for each in exported.inputs]
    network = exported.network
    reference = load_trained(str(bundle), device="cpu").model
    network.model.load_state_dict(reference.state_dict())  # nothing that the export did to it counts
    for batch in (1, 3):
        values = draw(exported.inputs, batch, seed=5)
        with torch.inference_mode():
            expected, logits = network(*values)
        probabilities, found = opened(values)
        assert found.shape == (batch, 5)
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-4 * logits.std().item())
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-4)
    free = {axis for row in opened.facts["inputs"] for axis in row["shape"][1:] if isinstance(axis, str)}
    wanted = FAMILIES[name][2]
    assert wanted is None or free == wanted, free
    assert [row["name"] for row in opened.facts["inputs"]] == names
    assert not [path for path in tmp_path.iterdir() if re.match(r"\.", path.name)]
