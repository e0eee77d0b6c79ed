"""Weights of labels from how often they occur in training."""

from __future__ import annotations

import torch
from torch import Tensor


def label_weights(counts: Tensor, *, power: float = 1.0, inverse: bool = False) -> Tensor:
    """Return (N_l / N_mean)^power of every label, or its inverse (N_mean / N_l)^power.

    arXiv:2003.05837 weights labels by N_l / N_mean and by its square root (`power` 0.5) and does not say which of the
    two directions it means; the inverse is the usual one, which lifts rare labels. A label without clips counts as one
    clip in the inverse, so that its weight is finite.

    Args:
        counts: (L,) training clips that carry each label, >= 0.
        power: 1 for the ratio, 0.5 for its root.
        inverse: rare labels weigh more instead of less.

    Returns:
        (L,) in float32, or float64 for counts in float64.

    Raises:
        ValueError: counts are not (L,), one is negative, or all are 0.
    """
    if counts.ndim != 1 or not counts.numel() or bool((counts < 0).any()) or not bool((counts > 0).any()):
        raise ValueError(f"counts must be (L,), none negative and not all 0, got {counts.tolist()}")
    found = counts if counts.dtype == torch.float64 else counts.float()
    if inverse:
        return (found.mean() / found.clamp(min=1)) ** power
    return (found / found.mean()) ** power
