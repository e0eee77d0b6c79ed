"""X-Temporal: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.renaming import rename
from reeltag.hub.convert.video_resnets import slowfast_options
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD


def _slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    rules = [
        (r"^(slow|fast)_conv1\.", r"\1.stem.conv."),
        (r"^(slow|fast)_bn1\.", r"\1.stem.bn."),
        *((rf"^(slow|fast)_res{index + 2}\.(\d+)\.", rf"\1.stages.{index}.blocks.\2.") for index in range(4)),
        (r"^lateral_p1\.", "laterals.0.conv."),
        *((rf"^lateral_res{index + 1}\.", f"laterals.{index}.conv.") for index in (1, 2, 3)),
        (r"^fc\.", "classifier."),
    ]
    weights = rename(tensors, rules)
    options = {**slowfast_options(name, weights), "slow_frames": "stride"}
    return Converted(weights, {**options, "pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD})


# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: "lateral_p1.weight" in tensors, _slowfast),
]


@SOURCES.register("xtemporal")
def xtemporal(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of X-Temporal.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no X-Temporal network known here has keys such as {', '.join(sorted(tensors)[:4])}")
