"""Bottleneck video networks of four public sources (slow, C2D, I3D, SlowFast): their names to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import Converted
from reeltag.hub.convert.renaming import rename
from reeltag.hub.convert.video_resnet_options import nonlocal_renamed, resnet_options, slowfast_options
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD
from reeltag.models.i3d_nonlocal import BEST_REACH

Rules = list[tuple[str, str]]
_IMAGENET_PIXELS = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD}

_PTV_BLOCK: Rules = [
    *((rf"\.res_blocks\.(\d+)\.branch2\.conv_{a}\.", rf".blocks.\1.conv{n}.") for n, a in enumerate("abc", 1)),
    *((rf"\.res_blocks\.(\d+)\.branch2\.norm_{a}\.", rf".blocks.\1.bn{n}.") for n, a in enumerate("abc", 1)),
    (r"\.res_blocks\.(\d+)\.branch1_conv\.", r".blocks.\1.downsample.0."),
    (r"\.res_blocks\.(\d+)\.branch1_norm\.", r".blocks.\1.downsample.1."),
    (r"^blocks\.\d+\.proj\.", "classifier."),
]


def pytorchvideo_resnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert slow, C2D or I3D of PyTorchVideo's hub.

    The hub's heads average over windows of 7 x 7 and then over the windows; ours average over the whole map, which is
    the same at 224 px.
    """
    stages = sorted({int(match[1]) for key in tensors if (match := re.match(r"blocks\.(\d+)\.res_blocks\.", key))})
    numbers = [(rf"^blocks\.{found}\.(?=res_blocks\.)", f"stages.{index}.") for index, found in enumerate(stages)]
    stem = [(r"^blocks\.0\.conv\.", "stem.conv."), (r"^blocks\.0\.norm\.", "stem.bn.")]
    weights = rename(tensors, [*stem, *numbers, *_PTV_BLOCK])
    # A pool behind the first stage is a block without weights: the numbers of the stages skip it.
    time_pool = len(stages) > 1 and stages[1] - stages[0] == 2
    return Converted(weights, {**resnet_options(name, weights), "time_pool": time_pool})


def pytorchvideo_slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert SlowFast of PyTorchVideo's hub, with heads as for `pytorchvideo_resnet`."""
    rules = [
        (r"^blocks\.(\d+)\.multipathway_fusion\.conv_fast_to_slow\.", r"laterals.\1.conv."),
        (r"^blocks\.(\d+)\.multipathway_fusion\.norm\.", r"laterals.\1.bn."),
        (r"^blocks\.(\d+)\.multipathway_blocks\.0\.", r"slow.blocks.\1."),
        (r"^blocks\.(\d+)\.multipathway_blocks\.1\.", r"fast.blocks.\1."),
        (r"^(slow|fast)\.blocks\.0\.conv\.", r"\1.stem.conv."),
        (r"^(slow|fast)\.blocks\.0\.norm\.", r"\1.stem.bn."),
        *((rf"^(slow|fast)\.blocks\.{index + 1}\.(?=res_blocks\.)", rf"\1.stages.{index}.") for index in range(4)),
        *_PTV_BLOCK,
    ]
    weights = rename(tensors, rules)
    return Converted(weights, slowfast_options(name, weights))


def _i3d_by_its_form(name: str, weights: dict[str, Tensor], options: dict[str, Any]) -> Converted:
    """Return what builds `i3d_nl_...` and `i3d_masked_nl_...`: the plain form, with the layers that the keys show."""
    masked = "_masked_nl_" in name
    plain = name.replace("_masked_nl_", "_").replace("_nl_", "_")
    if plain != name and "nonlocal_options" not in options:
        raise StoreError(f"these weights hold no non-local layer, and {name} has some; their network is {plain}")
    if masked:
        options["nonlocal_options"] |= {"pool": "none", "reach": BEST_REACH}
    return Converted(weights, options, name=plain)


_PYSLOWFAST: Rules = [
    *((rf"^s{index + 2}\.pathway(\d)_", rf"pathway\1.stages.{index}.") for index in range(4)),
    *((rf"\.res(\d+)\.branch2\.{a}\.", rf".blocks.\1.conv{n}.") for n, a in enumerate("abc", 1)),
    *((rf"\.res(\d+)\.branch2\.{a}_bn\.", rf".blocks.\1.bn{n}.") for n, a in enumerate("abc", 1)),
    (r"\.res(\d+)\.branch1\.", r".blocks.\1.downsample.0."),
    (r"\.res(\d+)\.branch1_bn\.", r".blocks.\1.downsample.1."),
    (r"\.nonlocal(\d+)\.", r".nonlocals.\1."),
    (r"^s1\.pathway(\d)_stem\.", r"pathway\1.stem."),
    *((rf"^s{index + 1}_fuse\.conv_f2s\.", f"laterals.{index}.conv.") for index in range(4)),
    *((rf"^s{index + 1}_fuse\.bn\.", f"laterals.{index}.bn.") for index in range(4)),
    (r"^head\.projection\.", "classifier."),
]


def pyslowfast_resnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert slow, C2D or I3D of PySlowFast.

    Its non-local layers are embedded gaussians, scaled, on pooled input, as its published configurations have them.
    """
    weights = rename(tensors, [*_PYSLOWFAST, (r"^pathway0\.", "")])
    weights, layer = nonlocal_renamed(weights, {"pairing": "embedded_gaussian", "scale": True, "pool": "before"})
    return _i3d_by_its_form(name, weights, {**resnet_options(name, weights), **layer})


def pyslowfast_slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert SlowFast of PySlowFast; its published configurations have dot products in non-local layers."""
    weights = rename(tensors, [*_PYSLOWFAST, (r"^pathway0\.", "slow."), (r"^pathway1\.", "fast.")])
    weights, layer = nonlocal_renamed(weights, {"pairing": "dot_product", "scale": True, "pool": "before"})
    return Converted(weights, {**slowfast_options(name, weights), **layer})


# Of a path `conv1, layer1 ... layer4` whose convolutions and norms come in pairs; the stem before the blocks.
_MMACTION2: Rules = [
    (r"^((?:slow\.|fast\.)?)conv1\.(conv|bn)\.", r"\1stem.\2."),
    *((rf"(^|\.)layer{index + 1}\.(\d+)\.non_local_block\.", rf"\1stages.{index}.nonlocals.\2.") for index in range(4)),
    *((rf"(^|\.)layer{index + 1}\.(\d+)\.", rf"\1stages.{index}.blocks.\2.") for index in range(4)),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.bn\.", r".bn\1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"^cls_head\.fc_cls\.", "classifier."),
]


def mmaction2_resnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert slow-only, C2D or I3D of MMAction2.

    What no key says follows from the name, as its configurations have it: I3D strides two frames in the stem's
    convolution and in its pool, C2D pools without padding, and of their embedded gaussians only slow-only's are scaled.
    """
    weights = rename(tensors, [(r"^backbone\.", ""), *_MMACTION2])
    weights = {key: value.unsqueeze(2) if value.ndim == 4 else value for key, value in weights.items()}
    weights, layer = nonlocal_renamed(weights, {"scale": name.startswith("slow_")})
    options: dict[str, Any] = {**resnet_options(name, weights), **layer, **_IMAGENET_PIXELS}
    if name.startswith("i3d_"):
        options["time_strides"] = (2, 2)
    if name.startswith("c2d_"):
        options["pool_padding"] = 0
    return _i3d_by_its_form(name, weights, options)


def mmaction2_slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert SlowFast of MMAction2, whose slow path takes every alpha-th frame.

    Alpha itself is in no key: 8 needs the name slowfast_4x16_r50, or alpha=8.
    """
    laterals = [(r"^slow\.conv1_lateral\.(conv|bn)\.", r"laterals.0.\1.")]
    laterals += [(rf"^slow\.layer{index}_lateral\.(conv|bn)\.", rf"laterals.{index}.\1.") for index in (1, 2, 3)]
    weights = rename(tensors, [(r"^backbone\.(slow|fast)_path\.", r"\1."), *laterals, *_MMACTION2])
    weights, layer = nonlocal_renamed(weights, {})
    options = slowfast_options(name, weights)
    # Their head reads the fast path's channels before the slow path's, the other sources' after them.
    if "classifier.weight" in weights:
        slow = weights["classifier.weight"].shape[1] / (1 + options["beta"])
        weights["classifier.weight"] = weights["classifier.weight"].roll(round(slow), 1)
    return Converted(weights, {**options, **layer, **_IMAGENET_PIXELS, "slow_frames": "stride"})


def xtemporal_slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert SlowFast of X-Temporal, whose slow path takes every fourth frame."""
    rules = [
        (r"^(slow|fast)_conv1\.", r"\1.stem.conv."),
        (r"^(slow|fast)_bn1\.", r"\1.stem.bn."),
        *((rf"^(slow|fast)_res{index + 2}\.(\d+)\.", rf"\1.stages.{index}.blocks.\2.") for index in range(4)),
        (r"^lateral_p1\.", "laterals.0.conv."),
        *((rf"^lateral_res{index + 1}\.", f"laterals.{index}.conv.") for index in (1, 2, 3)),
        (r"^fc\.", "classifier."),
    ]
    weights = rename(tensors, rules)
    return Converted(weights, {**slowfast_options(name, weights), **_IMAGENET_PIXELS, "slow_frames": "stride"})
