"""How far probabilities are from the frequencies they promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import mean_of_known
from reeltag.metrics.pairs import Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


def label_calibration_errors(pairs: Pairs, num_bins: int = 15) -> Array:
    """Return the expected calibration error of every label, (L,); NaN where it has no positive.

    Raises:
        ValueError: `num_bins` is below 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be >= 1, got {num_bins}")
    errors = np.full(pairs.num_labels, np.nan)
    for label, scores, positive in pairs.columns():
        if not positive.any():
            continue
        order = np.argsort(scores, kind="stable")
        given = scores[order].astype(np.float64)
        if pairs.kind == "logit":
            given = 0.5 + 0.5 * np.tanh(given / 2)  # sigmoid without overflow
        # Equal scores share their mean truth, so that the order of the videos cannot move a bin's edge.
        starts = np.flatnonzero(np.r_[True, given[1:] != given[:-1]])
        sizes = np.diff(starts, append=given.size)
        truth = np.repeat(np.add.reduceat(positive[order].astype(np.float64), starts) / sizes, sizes)
        edges = np.arange(min(num_bins, given.size)) * given.size // min(num_bins, given.size)
        errors[label] = np.abs(np.add.reduceat(given - truth, edges)).sum() / given.size
    return errors


@METRICS.register("ece")
def ece(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    *,
    num_bins: int = 15,
    ignore: Array | Tensor | None = None,
) -> float:
    """Expected calibration error: mean over labels of the gap between probability and frequency; lower is better.

    Each label's videos are sorted by probability and cut into 15 bins of equal mass (sizes differ by one at most);
    its error is the mean over bins, weighted by size, of |mean probability - share of positives|. Labels without
    positives are left out.

    Papers: Naeini, Cooper, Hauskrecht. Obtaining Well Calibrated Probabilities Using Bayesian Binning. AAAI 2015; bins
    of equal mass after Nixon et al. Measuring Calibration in Deep Learning. arXiv:1904.01685. The value shrinks
    with the number of bins and grows as videos get few: compare on the same videos only.

    Args:
        scores: (N, L) probabilities, or logits (known by values outside [0, 1], or by the `kind` of a `Pairs`).
        targets: (N, L), 0 or 1.
        num_bins: >= 1; with fewer videos each has its own.
        ignore: (N, L), true where the truth is unknown: the video is left out of that label.

    Returns:
        A number in [0, 1]; NaN when no label has a positive.

    Raises:
        ValueError: shapes differ, a score is NaN, a target is neither 0 nor 1, or `num_bins` is below 1.
    """
    return mean_of_known(label_calibration_errors(pairs_of(scores, targets, ignore), num_bins))
