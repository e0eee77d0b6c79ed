"""RAFT, torchvision's, as a function from pairs of frames to their optical flow (one of the homes of torchvision)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import optical_flow

MIN_SIDE_PX = 128  # below it the correlation pyramid has no level left
_MULTIPLE = 8
NUM_UPDATES = 12


class Raft(nn.Module):
    """RAFT behind our interface: pixels in, the last of its flow updates out.

    Paper: Teed, Deng. RAFT: Recurrent All-Pairs Field Transforms for Optical Flow. ECCV 2020, arXiv:2003.12039; the
    network is torchvision's. Sides are made multiples of 8, and at least 128, by continuing the edge on both sides, as
    the authors do; the flow is cut back.

    Args:
        net: torchvision's network.
        num_updates: of the recurrent unit; torchvision's default is 12, the paper tests with up to 32.
    """

    def __init__(self, net: nn.Module, num_updates: int = NUM_UPDATES) -> None:
        super().__init__()
        if num_updates < 1:
            raise ValueError(f"num_updates must be at least 1, got {num_updates}")
        self.net = net
        self.num_updates = num_updates

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return float32 (P, 2, H, W), x and y in pixels, of frames uint8 (P, 3, H, W) and those they lead to."""
        height, width = first.shape[2:]
        free_y, free_x = _room(height), _room(width)
        sides = (free_x // 2, free_x - free_x // 2, free_y // 2, free_y - free_y // 2)
        pairs = [F.pad(frames.float() / 127.5 - 1, sides, mode="replicate") for frames in (first, second)]
        flow: Tensor = self.net(*pairs, num_flow_updates=self.num_updates)[-1]
        return flow[:, :, sides[2] : sides[2] + height, sides[0] : sides[0] + width]


def _room(side_px: int) -> int:
    """Return how many pixels are missing to the next side that the network takes."""
    return max(-side_px % _MULTIPLE, MIN_SIDE_PX - side_px)


def raft(weights: Mapping[str, Any], num_updates: int = NUM_UPDATES) -> Raft:
    """Build RAFT-small or RAFT-large, whichever the weights are of, in evaluation mode.

    Args:
        weights: a state dict of torchvision's `raft_small` or `raft_large`.
        num_updates: see `Raft`.

    Raises:
        ValueError: the weights are those of neither.
    """
    large = any(key.startswith("mask_predictor.") for key in weights)
    # Built without values, which the weights replace: drawing them takes longer than reading them.
    with torch.device("meta"):
        net: Any = (optical_flow.raft_large if large else optical_flow.raft_small)(weights=None)
    own = net.state_dict()
    strange = sorted(own.keys() ^ weights.keys())
    strange += sorted(key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape)
    if strange:
        name = "raft_large" if large else "raft_small"
        raise ValueError(f"the weights are not those of torchvision's {name}: {strange[0]} and {len(strange) - 1} more")
    net.load_state_dict(weights, assign=True)
    model = Raft(net, num_updates).eval()
    return model.requires_grad_(False)


def published_weights(name: Literal["raft_small", "raft_large"]) -> dict[str, Any]:
    """Return the default weights that torchvision publishes: from its cache, or downloaded with their hash checked."""
    weights: Any = optical_flow.Raft_Large_Weights if name == "raft_large" else optical_flow.Raft_Small_Weights
    found: dict[str, Any] = weights.DEFAULT.get_state_dict(progress=False, check_hash=True)
    return found
