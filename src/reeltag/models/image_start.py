"""Start a bottleneck video network from the weights of the 2D ResNet of its depth."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reeltag.models.image2d import build_backbone

_IMAGE_NETS = {50: "resnet50", 101: "resnet101", 152: "resnet152"}
_NAMES = ((r"^conv1\.", "stem.conv."), (r"^bn1\.", "stem.bn."))


def start_from_image_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a 2D ResNet, its kernels repeated over time and divided by their number; the rest keeps its own start.

    Paper: Carreira, Zisserman. Quo Vadis, Action Recognition? CVPR 2017, arXiv:1705.07750, section 2.4: a clip of
    identical frames then gives the 2D network's map, but near its first and last frames, where time is padded.

    Args:
        model: with `stem` and `stages` (`models/video_resnet.py`).
        weights: of a ResNet by the names of torchvision and timm; its classifier is left out.

    Raises:
        ValueError: a layer of the 2D network is missing here, or has another shape, or one of ours is missing there.
    """
    own = model.state_dict()
    started = set()
    for key, value in weights.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        name = re.sub(r"^layer(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.", key)
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if name not in own:
            raise ValueError(f"the 2D network's {key} has no place in {type(model).__name__}; their depths differ")
        own[name].copy_(_inflated(key, value, own[name]))
        started.add(name)
    left = [
        key for key in own if key.startswith(("stem.", "stages.")) and key not in started and ".nonlocals." not in key
    ]
    left = [key for key in left if not key.endswith("num_batches_tracked")]
    if left:
        raise ValueError(f"the 2D network has no weights for {left[0]} and {len(left) - 1} more; their depths differ")


def _inflated(key: str, value: Tensor, place: Tensor) -> Tensor:
    if value.ndim == 4 and place.ndim == 5:
        if key == "conv1.weight" and value.shape[1] != place.shape[1]:  # as TSN: the mean over RGB, repeated
            value = value.mean(1, keepdim=True).expand(-1, place.shape[1], -1, -1)
        value = value.unsqueeze(2).expand(-1, -1, place.shape[2], -1, -1) / place.shape[2]
    if value.shape != place.shape:
        raise ValueError(f"the 2D network's {key} is {tuple(value.shape)}, ours is {tuple(place.shape)}")
    return value


def image_weights(depth: int) -> dict[str, Tensor]:
    """Return timm's ImageNet weights of the ResNet of `depth` layers (needs a network or timm's cache)."""
    if depth not in _IMAGE_NETS:
        raise ValueError(f"there are image weights for depths {', '.join(map(str, _IMAGE_NETS))}, not {depth}")
    with torch.device("cpu"):
        net: nn.Module = build_backbone(_IMAGE_NETS[depth], pretrained=True).net
    return net.state_dict()
