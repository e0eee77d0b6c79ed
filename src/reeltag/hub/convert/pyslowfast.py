"""PySlowFast: names of its .pyth checkpoints to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.renaming import rename
from reeltag.hub.convert.video_resnets import resnet_options, slowfast_options

_STAGES = [(rf"^s{index + 2}\.pathway(\d)_", rf"pathway\1.stages.{index}.") for index in range(4)]
_BLOCK = [
    (r"\.res(\d+)\.branch2\.a\.", r".blocks.\1.conv1."),
    (r"\.res(\d+)\.branch2\.a_bn\.", r".blocks.\1.bn1."),
    (r"\.res(\d+)\.branch2\.b\.", r".blocks.\1.conv2."),
    (r"\.res(\d+)\.branch2\.b_bn\.", r".blocks.\1.bn2."),
    (r"\.res(\d+)\.branch2\.c\.", r".blocks.\1.conv3."),
    (r"\.res(\d+)\.branch2\.c_bn\.", r".blocks.\1.bn3."),
    (r"\.res(\d+)\.branch1\.", r".blocks.\1.downsample.0."),
    (r"\.res(\d+)\.branch1_bn\.", r".blocks.\1.downsample.1."),
]
_RULES = [
    *_STAGES,
    *_BLOCK,
    (r"^s1\.pathway(\d)_stem\.", r"pathway\1.stem."),
    *((rf"^s{index + 1}_fuse\.conv_f2s\.", f"laterals.{index}.conv.") for index in range(4)),
    *((rf"^s{index + 1}_fuse\.bn\.", f"laterals.{index}.bn.") for index in range(4)),
    (r"^head\.projection\.", "classifier."),
]


@SOURCES.register("pyslowfast")
def pyslowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of PySlowFast (C2D, I3D, slow and SlowFast ResNets, with non-local layers or without).

    In evaluation its heads end in a softmax; ours give logits.

    Raises:
        StoreError: the keys are of no such network.
    """
    if "s1.pathway0_stem.conv.weight" not in tensors:
        raise StoreError(f"no PySlowFast ResNet has keys such as {', '.join(sorted(tensors)[:4])}")
    if any(key.startswith("s1.pathway1_") for key in tensors):
        weights = rename(tensors, [*_RULES, (r"^pathway0\.", "slow."), (r"^pathway1\.", "fast.")])
        return Converted(weights, slowfast_options(name, weights))
    weights = rename(tensors, [*_RULES, (r"^pathway0\.", "")])
    return Converted(weights, resnet_options(name, weights))
