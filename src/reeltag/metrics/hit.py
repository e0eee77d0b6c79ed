"""Hit@k: does one of the best k labels belong to the video?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import video_ranks
from reeltag.metrics.pairs import Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


def hit_rate(pairs: Pairs, k: int) -> float:
    """Return the share of the videos with labels of which a label is among the best `k`.

    A label is among the best k when fewer than k absent labels score at least as much: a tie counts against the video,
    so that a model which gives every label the same score hits nothing.
    """
    wrong_above = pairs.once(video_ranks).wrong_above
    labelled = wrong_above >= 0
    return float(np.mean(wrong_above[labelled] < k)) if labelled.any() else float("nan")


@METRICS.register("hit_at_1")
def hit_at_1(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Share of videos whose best-scored label is one of their labels; videos without labels are left out.

    Paper: Karpathy et al. Large-scale Video Classification with Convolutional Neural Networks. CVPR 2014, section 4.
    The YouTube-8M code counts a video without labels as a miss.

    Args:
        scores: (N, L), higher is more likely.
        targets: (N, L), 0 or 1.
        ignore: (N, L), true where the truth is unknown: the label is neither a hit nor a rival.

    Returns:
        A number in [0, 1]; NaN when no video has a label. A tie with an absent label is a miss.

    Raises:
        ValueError: shapes differ, a score is NaN, or a target is neither 0 nor 1.
    """
    return hit_rate(pairs_of(scores, targets, ignore), 1)


@METRICS.register("hit_at_5")
def hit_at_5(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Share of videos with one of their labels among the best five. Arguments, result and errors as in `hit_at_1`."""
    return hit_rate(pairs_of(scores, targets, ignore), 5)
