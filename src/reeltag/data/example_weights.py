"""How often a training clip is drawn: class-balanced and repeat-factor sampling for several labels a clip."""

from __future__ import annotations

import torch
from torch import Tensor


def class_balanced_weights(targets: Tensor) -> list[float]:
    """Return a weight for each clip as if a label were drawn, then one of its clips: the sum of its labels' 1 / N_l.

    Source: class-aware sampling of Shen, Lin, Huang. Relay Backpropagation, ECCV 2016, arXiv:1512.05830, section 3.3,
    as a weight. With several labels a clip the labels that come along with rare ones are lifted too, so the labels of
    an epoch are more even than the data, but not equal. A clip without labels takes the mean weight of the others.

    Args:
        targets: (N, L), 0 or 1.
    """
    present = targets > 0
    weights = (present / present.sum(0).clamp(min=1).double()).sum(1)  # (N,)
    has_any = present.any(1)
    mean = weights[has_any].mean() if bool(has_any.any()) else torch.ones((), dtype=torch.float64)
    return torch.where(has_any, weights, mean).tolist()


def repeat_factors(targets: Tensor, threshold: float) -> list[float]:
    """Return r = max over a clip's labels of max(1, sqrt(t / f_l)), f_l the share of clips that carry label l.

    Paper: Gupta, Dollar, Girshick. LVIS, CVPR 2019, arXiv:1908.03195, section 4.1 (of images and categories). A label
    with f_l >= t is left alone. Departure: there an epoch grows to sum r_i clips; here the factors are relative, an
    epoch keeps its length, and `EpochOrder` draws clip i N r_i / sum r times, rounded up or down by chance.

    Args:
        targets: (N, L), 0 or 1.
        threshold: t, in (0, 1]; LVIS takes 0.001 of 100,000 images.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a share of clips in (0, 1], got {threshold}")
    present = targets > 0
    share = present.double().mean(0)  # (L,)
    factor = (threshold / share.clamp(min=torch.finfo(torch.float64).tiny)).sqrt().clamp(min=1)
    return torch.where(present, factor, torch.ones((), dtype=torch.float64)).amax(1).tolist()
