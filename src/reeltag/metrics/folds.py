"""A metric over the folds of a cross-validation: one value a fold, their mean and their spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import mean_of_known
from reeltag.metrics.pairs import Array, as_array

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FoldResult:
    """Values of one metric.

    Attributes:
        values: fold -> value, in the order of the folds; NaN where the metric is not defined on one.
        mean: over the folds that are not NaN, each with the same weight.
        sd: sample standard deviation of these, NaN for fewer than two.
    """

    values: dict[int, float]
    mean: float
    sd: float


def over_folds(
    name: str,
    scores: Array | Tensor,
    targets: Array | Tensor,
    folds: Array | Tensor,
    *,
    ignore: Array | Tensor | None = None,
) -> FoldResult:
    """Return a metric on each fold and its mean, for scores of which each came from a model that had not seen its fold.

    Published accuracies of UCF-101, HMDB-51 and ESC-50 are such means, not one accuracy over all videos: the two differ
    where folds do in size, and rank metrics must not compare scores of different models.

    Args:
        name: of `METRICS`.
        scores: (N, L), higher is more likely.
        targets: (N, L), 0 or 1.
        folds: (N,) the number of each video's fold.
        ignore: (N, L), true where the truth is unknown.

    Raises:
        UnknownName: no such metric.
        ValueError: no video, folds that are not (N,), or what the metric refuses.
    """
    measure = METRICS[name]
    values, truth, number = as_array(scores), as_array(targets), as_array(folds)
    unknown = None if ignore is None else as_array(ignore)
    if number.shape != values.shape[:1] or not len(number):
        raise ValueError(f"folds must be ({len(values)},), one per video, and not empty, got {number.shape}")
    found = {}
    for fold in np.unique(number).tolist():
        rows = number == fold
        found[int(fold)] = measure(values[rows], truth[rows], ignore=None if unknown is None else unknown[rows])
    known = [value for value in found.values() if not np.isnan(value)]
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
    return FoldResult(found, mean_of_known(np.array(list(found.values()))), sd)


def k_fold_accuracy(scores: Array | Tensor, classes: Array | Tensor, folds: Array | Tensor) -> FoldResult:
    """Return the top-1 accuracy of single-label videos on each fold, and its mean.

    Args:
        scores: (N, K), higher is more likely; a tie with a wrong class is a miss.
        classes: (N,) class numbers in [0, K).
        folds: (N,) the number of each video's fold.

    Raises:
        ValueError: shapes do not fit, or a class number is outside [0, K).
    """
    values, number = as_array(scores), as_array(classes)
    if values.ndim != 2 or number.shape != values.shape[:1]:
        raise ValueError(f"scores must be (N, K) and classes (N,), got {values.shape} and {number.shape}")
    if len(number) and not 0 <= number.min() <= number.max() < values.shape[1]:
        raise ValueError(f"classes must be in [0, {values.shape[1]}), got {number.min()} to {number.max()}")
    return over_folds("top_1", values, number[:, None] == np.arange(values.shape[1]), folds)
