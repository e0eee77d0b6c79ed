"""What most 3D networks share: the way in from (B, T, C, H, W), a global mean over time and space, one linear layer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from reeltag.layers.pixel_norm import PixelNorm
from reeltag.models.interface import VideoModel, clip_check


class PooledVideoModel(VideoModel):
    """A 3D network whose map is averaged over time and space, then dropout and a linear classifier.

    Subclasses build their layers, then call `reset_classifier`.

    Args:
        norm: uint8 to network input; its length is the number of channels.
        num_features: D, the channels of the last map.
        dropout: probability on the pooled features, in [0, 1).
        head_std: see `VideoModel`.
        head_bias: see `VideoModel`.
    """

    def __init__(
        self,
        norm: PixelNorm,
        num_features: int,
        *,
        dropout: float = 0.5,
        head_std: float = 0.01,
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.norm = norm
        self.num_features = num_features
        self.dropout = nn.Dropout(dropout)
        self.head_std = head_std
        self.head_bias = head_bias

    @abstractmethod
    def forward_map(self, x: Tensor) -> Tensor:
        """Return the map (B, D, t, h, w) of normalised input (B, C, T, H, W)."""

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, D, t, h, w) of a clip (B, T, C, H, W)."""
        return self.forward_map(to_channels_first(clip, self.norm))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, D) over time and space with `pre_logits`."""
        pooled = features.mean((2, 3, 4))
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


def to_channels_first(clip: Tensor, norm: PixelNorm) -> Tensor:
    """Return normalised (B, C, T, H, W) of a clip (B, T, C, H, W): how video enters a 3D network.

    Memory stays in the order B, T, H, W, C (channels_last_3d), the fastest for convolutions in bfloat16 and on GPUs.
    """
    clip_check(clip)
    x = norm(clip).transpose(1, 2)  # (B, C, T, H, W)
    if x.device.type in ("cpu", "cuda"):
        x = x.contiguous(memory_format=torch.channels_last_3d)
    return x
