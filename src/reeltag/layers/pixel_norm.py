"""Pixels to network input: the first step inside every model, so that uint8 is what travels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@LAYERS.register("pixel_norm")
class PixelNorm(nn.Module):
    """Turn uint8 pixels into (pixel / 255 - mean) / std; a float tensor is taken as normalised and passes unchanged.

    Args:
        mean: per channel, in 0..1; the default is ImageNet's RGB.
        std: per channel, in 0..1.
        reverse: turn the channels of pixels round, after the norm: for networks whose weights see BGR.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD, *, reverse: bool = False
    ) -> None:
        super().__init__()
        self.reverse = reverse
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one value a channel, std above 0; got {mean} and {std}")
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", scale.float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C, H, W); C must be the number of channels of `mean`."""
        if x.shape[-3] != self.scale.shape[0]:
            raise ValueError(f"the clip has {x.shape[-3]} channels, the model takes {self.scale.shape[0]}")
        if x.dtype != torch.uint8:
            return x
        normal = torch.addcmul(self.shift, x, self.scale)
        return normal.flip(-3) if self.reverse else normal


def pixel_norm_for(
    in_channels: int, mean: tuple[float, ...], std: tuple[float, ...], *, reverse: bool = False
) -> PixelNorm:
    """Return the norm of a network's own statistics, or around mid-grey for other channel counts (flow, differences).

    Quantised flow has its zero at 128, so mid-grey is no motion; the deviation is the mean of `std`.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")
    if in_channels == len(mean):
        return PixelNorm(mean, std, reverse=reverse)
    return PixelNorm((128 / 255,) * in_channels, (sum(std) / len(std),) * in_channels)
