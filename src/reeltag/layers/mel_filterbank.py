"""Triangular filters on the mel scale."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

MelScale = Literal["slaney", "htk"]
TriangleNorm = Literal["area", "peak"]
# Slaney's scale (Auditory Toolbox, 1998): linear up to 1 kHz at 3 mel for 200 Hz, then 27 steps for a factor of 6.4.
_LINEAR_HZ, _HZ_PER_MEL, _STEP = 1000.0, 200.0 / 3, math.log(6.4) / 27


def hz_to_mel(hz: Tensor, scale: MelScale) -> Tensor:
    """Return frequencies on a mel scale."""
    if scale == "htk":
        return 2595 * (1 + hz / 700).log10()
    above = _LINEAR_HZ / _HZ_PER_MEL + (hz.clamp_min(_LINEAR_HZ) / _LINEAR_HZ).log() / _STEP
    return torch.where(hz < _LINEAR_HZ, hz / _HZ_PER_MEL, above)


def mel_to_hz(mel: Tensor, scale: MelScale) -> Tensor:
    """Return the inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    knee = _LINEAR_HZ / _HZ_PER_MEL
    return torch.where(mel < knee, mel * _HZ_PER_MEL, _LINEAR_HZ * ((mel - knee).clamp_min(0) * _STEP).exp())


def mel_filterbank(
    rate_hz: int,
    n_fft: int,
    n_mels: int,
    f_min_hz: float = 0.0,
    f_max_hz: float | None = None,
    *,
    scale: MelScale = "slaney",
    norm: TriangleNorm = "area",
    linear_in: Literal["hz", "mel"] = "hz",
) -> Tensor:
    """Return triangular filters (F, n_fft / 2 + 1) in float64; neighbours meet at each other's tops.

    Args:
        rate_hz: of the waveform.
        n_fft: points of the transform.
        n_mels: F, filters.
        f_min_hz: where the first begins; `f_max_hz`: where the last ends, half the rate when None.
        scale: on which the tops are evenly spaced.
        norm: `area` divides each by half its width in Hz, so that its area is one; `peak` leaves the top at one.
        linear_in: the axis over which the sides are straight lines. Over `mel` the bin at 0 Hz is left out, as in the
            published VGGish front end.
    """
    bins_hz = torch.linspace(0, rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    ends = hz_to_mel(torch.tensor([f_min_hz, f_max_hz or rate_hz / 2], dtype=torch.float64), scale)
    corners_mel = torch.linspace(ends[0], ends[1], n_mels + 2, dtype=torch.float64)
    corners_hz = mel_to_hz(corners_mel, scale)
    corners, bins = (corners_hz, bins_hz) if linear_in == "hz" else (corners_mel, hz_to_mel(bins_hz, scale))
    left, top, right = (c.unsqueeze(1) for c in (corners[:-2], corners[1:-1], corners[2:]))
    filters = torch.minimum((bins - left) / (top - left), (right - bins) / (right - top)).clamp_min(0)  # (F, bins)
    if linear_in == "mel":
        filters[:, 0] = 0
    if norm == "area":
        filters *= (2 / (corners_hz[2:] - corners_hz[:-2])).unsqueeze(1)
    return filters
