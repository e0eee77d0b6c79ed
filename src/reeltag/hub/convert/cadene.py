"""Cadene's pretrained-models: names of its image networks to our frame networks, one network each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.frame_networks import BNINCEPTION, Rules, frame_network
from reeltag.hub.convert.renaming import as_linear, rename

# Its names for networks that the field, timm and we call otherwise.
_NAMES = {
    "inceptionv3": "inception_v3",
    "inceptionv4": "inception_v4",
    "inceptionresnetv2": "inception_resnet_v2",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "xception": "legacy_xception",
}
_POLYNET: Rules = [
    (r"^stem\.conv1\.", "stem.entry."),
    (r"^stem\.conv1_branch\.", "stem.down1."),
    (r"^stem\.conv2_branch\.", "stem.down2."),
    (r"^stem\.conv2_(short|long)\.", r"stem.\1."),
    (r"\.blocks\.(\d)\.path(\d)\.(\d)\.", r".ways.\1.branches.\2.\3."),
    (r"\.blocks\.(\d)\.path(\d)\.(conv|bn)\.", r".ways.\1.branches.\2.0.\3."),
    (r"\.blocks\.(\d)\.conv2d\.", r".ways.\1.merge."),
    (r"\.path0_1x1\.", ".branches.0.0."),
    (r"\.path0_1x\d\.", ".branches.0.1."),
    (r"\.path0_\dx1\.", ".branches.0.2."),
    (r"^(stage_\w\.\d+)\.path1\.", r"\1.branches.1.0."),
    (r"\.bn_blocks\.", ".bns."),
    (r"\.conv2d_blocks\.(\d)\.", r".merges.\1."),
    (r"^(reduction_\w)\.path(\d)\.(\d)\.", r"\1.branches.\2.\3."),
    (r"^(reduction_\w)\.path(\d)\.(conv|bn)\.", r"\1.branches.\2.0.\3."),
]
_HEADS = ("last_linear", "fc", "classifier", "classif")


@SOURCES.register("cadene")
def cadene(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert an image network to TSN on it: a clip of one frame gives the image's logits.

    The networks of timm keep the names of timm, which are Cadene's but for the head. Auxiliary heads are left out: TSN
    has none.
    """
    backbone = name.removeprefix("tsn_")
    backbone = _NAMES.get(backbone, backbone)
    rules = [(rf"^({'|'.join(_HEADS)})\.", "classifier.")]
    if backbone == "polynet":
        rules += _POLYNET
    if backbone == "bninception":
        rules += BNINCEPTION
    rules += [(r"^(?!classifier\.)", "backbone.net.")]
    kept = {key: value for key, value in tensors.items() if not key.startswith("AuxLogits.")}
    weights = as_linear(rename(kept, rules), "classifier")
    return frame_network(f"tsn_{backbone}", weights)
