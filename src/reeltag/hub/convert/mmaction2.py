"""MMAction2: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.renaming import rename
from reeltag.hub.convert.video_resnets import block_kernels, resnet_options, slowfast_options
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD
from reeltag.models.bottleneck3d import EXPANSION

_PIXELS = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD}
# Of a path `conv1, layer1 ... layer4` whose convolutions and norms come in pairs; the stem before the blocks.
_PATH = [
    (r"^((?:slow\.|fast\.)?)conv1\.(conv|bn)\.", r"\1stem.\2."),
    *((rf"(^|\.)layer{index + 1}\.(\d+)\.", rf"\1stages.{index}.blocks.\2.") for index in range(4)),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.bn\.", r".bn\1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
]
_HEAD = [(r"^cls_head\.fc_cls\.", "classifier.")]


def _video_resnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    weights = rename(tensors, [(r"^backbone\.", ""), *_PATH, *_HEAD])
    weights = {key: value.unsqueeze(2) if value.ndim == 4 else value for key, value in weights.items()}
    options = resnet_options(name, weights)
    if name.startswith("i3d_"):
        options["time_strides"] = (2, 2)
    if name.startswith("c2d_"):
        options["pool_padding"] = 0
    return Converted(weights, {**options, **_PIXELS})


def _slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    laterals = [(r"^slow\.conv1_lateral\.(conv|bn)\.", r"laterals.0.\1.")]
    laterals += [(rf"^slow\.layer{index}_lateral\.(conv|bn)\.", rf"laterals.{index}.\1.") for index in (1, 2, 3)]
    weights = rename(tensors, [(r"^backbone\.(slow|fast)_path\.", r"\1."), *laterals, *_PATH, *_HEAD])
    # Their head reads the fast path's channels before the slow path's, every other network of the field after them.
    fast = EXPANSION * 2 ** (len(block_kernels(weights, "fast.")) - 1) * weights["fast.stem.conv.weight"].shape[0]
    if "classifier.weight" in weights:
        weights["classifier.weight"] = weights["classifier.weight"].roll(-fast, 1)
    return Converted(weights, {**slowfast_options(name, weights), "slow_frames": "stride", **_PIXELS})


# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: any(key.startswith("backbone.slow_path.") for key in tensors), _slowfast),
    (lambda name, tensors: name.split("_")[0] in ("slow", "c2d", "i3d"), _video_resnet),
]


@SOURCES.register("mmaction2")
def mmaction2(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of MMAction2.

    What its keys do not say is set by the name: I3D has temporal stride 2 in the stem's convolution and in its pool, C2D
    pools without padding. Their SlowFast takes every alpha-th frame; alpha = 8 needs the name slowfast_4x16_r50 or alpha=8.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no MMAction2 network known here has keys such as {', '.join(sorted(tensors)[:4])}")
