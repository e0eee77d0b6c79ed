"""PyTorchVideo's model zoo: names of its hub checkpoints to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.renaming import rename
from reeltag.hub.convert.video_resnets import resnet_options, slowfast_options

_BLOCK = [
    (r"\.res_blocks\.(\d+)\.branch2\.conv_a\.", r".blocks.\1.conv1."),
    (r"\.res_blocks\.(\d+)\.branch2\.norm_a\.", r".blocks.\1.bn1."),
    (r"\.res_blocks\.(\d+)\.branch2\.conv_b\.", r".blocks.\1.conv2."),
    (r"\.res_blocks\.(\d+)\.branch2\.norm_b\.", r".blocks.\1.bn2."),
    (r"\.res_blocks\.(\d+)\.branch2\.conv_c\.", r".blocks.\1.conv3."),
    (r"\.res_blocks\.(\d+)\.branch2\.norm_c\.", r".blocks.\1.bn3."),
    (r"\.res_blocks\.(\d+)\.branch1_conv\.", r".blocks.\1.downsample.0."),
    (r"\.res_blocks\.(\d+)\.branch1_norm\.", r".blocks.\1.downsample.1."),
    (r"^blocks\.\d+\.proj\.", "classifier."),
]


def _video_resnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    stages = sorted({int(match[1]) for key in tensors if (match := re.match(r"blocks\.(\d+)\.res_blocks\.", key))})
    numbers = [(rf"^blocks\.{found}\.(?=res_blocks\.)", f"stages.{index}.") for index, found in enumerate(stages)]
    stem = [(r"^blocks\.0\.conv\.", "stem.conv."), (r"^blocks\.0\.norm\.", "stem.bn.")]
    weights = rename(tensors, [*stem, *numbers, *_BLOCK])
    # A pool behind the first stage is a block without weights: the numbers of the stages skip it.
    time_pool = len(stages) > 1 and stages[1] - stages[0] == 2
    return Converted(weights, {**resnet_options(name, weights), "time_pool": time_pool})


def _slowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    rules = [
        (r"^blocks\.(\d+)\.multipathway_fusion\.conv_fast_to_slow\.", r"laterals.\1.conv."),
        (r"^blocks\.(\d+)\.multipathway_fusion\.norm\.", r"laterals.\1.bn."),
        (r"^blocks\.(\d+)\.multipathway_blocks\.0\.", r"slow.blocks.\1."),
        (r"^blocks\.(\d+)\.multipathway_blocks\.1\.", r"fast.blocks.\1."),
        (r"^(slow|fast)\.blocks\.0\.conv\.", r"\1.stem.conv."),
        (r"^(slow|fast)\.blocks\.0\.norm\.", r"\1.stem.bn."),
        *((rf"^(slow|fast)\.blocks\.{index + 1}\.", rf"\1.stages.{index}.") for index in range(4)),
        *_BLOCK,
    ]
    weights = rename(tensors, rules)
    return Converted(weights, slowfast_options(name, weights))


# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: any(".multipathway_blocks." in key for key in tensors), _slowfast),
    (lambda name, tensors: "blocks.0.conv.weight" in tensors, _video_resnet),
]


@SOURCES.register("pytorchvideo")
def pytorchvideo(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of PyTorchVideo's hub (slow, C2D, I3D and SlowFast ResNets).

    The hub's heads average over a fixed 7 x 7 window and then over windows; ours average over the whole map, which is the
    same at 224 px. Pixels are normalised with mean 0.45 and deviation 0.225, as in the hub's tutorial.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no PyTorchVideo network known here has keys such as {', '.join(sorted(tensors)[:4])}")
