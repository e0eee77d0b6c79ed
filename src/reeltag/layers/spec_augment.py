"""SpecAugment: bands of time and of frequency are blanked in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS


@LAYERS.register("spec_augment")
class SpecAugment(nn.Module):
    """Blank `time_masks` stretches of frames and `band_masks` stretches of mel bands of every clip, in training alone.

    Paper: Park et al. SpecAugment. Interspeech 2019, arXiv:1904.08779, section 2, without time warping. Widths are
    drawn evenly from 0 to the limit, each clip on its own, from torch's generator as dropout does. The blanked value is
    zero, so the module stands after a normalisation.

    Args:
        max_frames: the widest stretch of time, in frames.
        max_bands: the widest stretch of frequency, in bands.
        time_masks: how many stretches of time.
        band_masks: how many of frequency.
    """

    def __init__(self, max_frames: int = 64, max_bands: int = 8, time_masks: int = 2, band_masks: int = 2) -> None:
        super().__init__()
        if min(max_frames, max_bands, time_masks, band_masks) < 0:
            raise ValueError(
                f"widths and counts of masks are at least 0, got {max_frames}, {max_bands}, {time_masks}, {band_masks}"
            )
        self.max_frames, self.max_bands = max_frames, max_bands
        self.time_masks, self.band_masks = time_masks, band_masks

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, F, T) with the drawn stretches at zero; in evaluation, `x` itself."""
        if not self.training:
            return x
        blank = _stretches(x, x.shape[1], self.max_bands, self.band_masks).unsqueeze(2)  # (B, F, 1)
        blank = blank | _stretches(x, x.shape[2], self.max_frames, self.time_masks).unsqueeze(1)  # (B, F, T)
        return x.masked_fill(blank, 0.0)


def _stretches(x: Tensor, length: int, widest: int, count: int) -> Tensor:
    """Return (B, length), True inside any of `count` drawn stretches."""
    batch = x.shape[0]
    widths = torch.rand(batch, count, 1, device=x.device) * (min(widest, length) + 1)
    widths = widths.floor()
    starts = (torch.rand(batch, count, 1, device=x.device) * (length - widths + 1)).floor()
    place = torch.arange(length, device=x.device)
    inside: Tensor = ((place >= starts) & (place < starts + widths)).any(1)
    return inside
