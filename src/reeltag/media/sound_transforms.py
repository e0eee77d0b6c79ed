"""Variations of a waveform: speed, loudness, and crops at even places."""

from __future__ import annotations

import torch
from torch import Tensor


def change_speed(wave: Tensor, factor: float) -> Tensor:
    """Return the wave stretched to int(N x factor) samples by linear interpolation: slower and lower above 1.

    Between-class learning with strong augmentation draws the factor as 1.25^u, u even in [-1, 1] (Tokozume, Ushiku,
    Harada, arXiv:1711.10282, section 4.1). Sample i is taken at i / factor; behind the last sample its value goes on.

    Args:
        wave: (N,) samples.
        factor: > 0, and such that a sample is left.

    Raises:
        ValueError: no sample would be left.
    """
    num_samples = int(len(wave) * factor)
    if factor <= 0 or num_samples < 1:
        raise ValueError(f"{len(wave)} samples cannot be stretched by {factor}: at least one must be left")
    places = torch.arange(num_samples, dtype=torch.float64) / factor
    left = places.long().clamp_(max=len(wave) - 1)
    right = (left + 1).clamp_(max=len(wave) - 1)
    share = places.frac_().to(wave.dtype)
    return wave.index_select(0, left) * (1 - share) + wave.index_select(0, right) * share


def amplify(wave: Tensor, gain_db: float) -> Tensor:
    """Return the wave 10^(gain / 20) times as large; between-class learning draws the gain in [-6, 6] after mixing."""
    return wave * 10 ** (gain_db / 20)


def even_crops(wave: Tensor, num_samples: int, count: int) -> Tensor:
    """Return (count, num_samples) crops at even distances, the first at the start of the wave.

    The distance is rounded down to whole samples, so the last crop may end a little before the wave does, as in the
    published code (10 crops of a clip padded by half a crop on both sides, arXiv:1711.10282, section 4.1).

    Args:
        wave: (N,) samples, N >= num_samples.
        num_samples: of a crop.
        count: >= 1.

    Raises:
        ValueError: the wave is shorter than a crop.
    """
    if len(wave) < num_samples:
        raise ValueError(f"a crop of {num_samples} samples does not fit into {len(wave)}; pad the wave before")
    step = (len(wave) - num_samples) // max(1, count - 1)
    return torch.stack([wave[index * step : index * step + num_samples] for index in range(count)])
