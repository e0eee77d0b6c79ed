"""Non-local and relation layers behind chosen blocks of a residual network, 2D or 3D, that is already built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from reeltag.layers import LAYERS
from reeltag.layers.nonlocal_block import AfterBlock
from reeltag.layers.temporal_shift import ClipLength


def insert_nonlocal(
    net: nn.Module,
    places: Mapping[str, Sequence[int]],
    *,
    layer: str = "nonlocal_block",
    options: Mapping[str, Any] | None = None,
    clip: ClipLength | None = None,
) -> int:
    """Put a layer behind given blocks of a network, and return how many were put.

    Paper: Wang, Girshick, Gupta, He. Non-local Neural Networks. CVPR 2018, arXiv:1711.07971, section 4: five blocks,
    two in res3 and three in res4. The weights of a block keep their names below `block`, those of the layer stand below
    `nl`, as in published TSM weights.

    Args:
        net: changed in place.
        places: the numbers of blocks, from 0, by the path of their stage: `{"layer2": [1, 3], "layer3": [1, 3, 5]}`.
        layer: a registered layer on (B, C, T, H, W) whose first argument is C: `nonlocal_block`, `relation_block`.
        options: its own.
        clip: for a 2D network, where the frames a clip stand.

    Raises:
        ValueError: no such stage or block; nothing is changed then.
    """
    found: list[tuple[nn.Sequential | nn.ModuleList, int]] = []
    for path, numbers in places.items():
        stage = dict(net.named_modules()).get(path)
        if not isinstance(stage, nn.Sequential | nn.ModuleList):
            raise ValueError(f"{type(net).__name__} has no stage of blocks called {path!r}")
        for number in numbers:
            if not 0 <= number < len(stage):
                raise ValueError(f"{path} has blocks 0 to {len(stage) - 1}, and one is to follow block {number}")
            found.append((stage, number))
    for stage, number in found:
        added = LAYERS.build(layer, channels=_width(stage[number]), **(options or {}))
        stage[number] = AfterBlock(stage[number], cast("nn.Module", added), clip).train(net.training)
    return len(found)


def _width(block: nn.Module) -> int:
    """Return the channels that a block gives: those of its last convolution (the shortcut's are the same)."""
    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    if not convs:
        raise ValueError(f"{type(block).__name__} has no convolution, so its width is not known")
    return convs[-1].out_channels
