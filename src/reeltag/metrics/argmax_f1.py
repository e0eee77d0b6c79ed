"""F1 of the best of several exclusive labels, as single-choice tasks count it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reeltag.metrics.interval import Interval, bootstrap_interval
from reeltag.metrics.pairs import Array


@dataclass(frozen=True)
class ArgmaxF1:
    """Result of `argmax_f1`.

    Attributes:
        per_class: (K,) F1 in [0, 1]; NaN for a class that is neither true nor predicted anywhere.
        macro: mean over the classes that are not NaN.
        confusion: (K, K) counts, true class by row and predicted class by column.
    """

    per_class: Array
    macro: float
    confusion: Array


def argmax_f1(scores: Array, truth: Array) -> ArgmaxF1:
    """Return F1 per class and its mean when the best-scored of K classes is the prediction.

    Args:
        scores: (N, K) real numbers; the first of equal scores wins.
        truth: (N,) class numbers in [0, K).

    Raises:
        ValueError: shapes do not fit, a score is NaN, or a class number is outside [0, K).
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not len(truth):
        raise ValueError(f"scores must be (N, K) and truth (N,) with N >= 1, got {scores.shape} and {truth.shape}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN; scores must be numbers")
    num_classes = scores.shape[1]
    if truth.min() < 0 or truth.max() >= num_classes:
        raise ValueError(f"truth must be in [0, {num_classes}), got {truth.min()} to {truth.max()}")
    cells = truth.astype(np.int64) * num_classes + scores.argmax(axis=1)
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)  # (K, K)
    counted = confusion.sum(axis=0) + confusion.sum(axis=1)  # 2 TP + FP + FN
    per_class = np.full(num_classes, np.nan)
    np.divide(2 * confusion.diagonal(), counted, out=per_class, where=counted > 0)
    return ArgmaxF1(per_class, float(np.nanmean(per_class)), confusion)


def argmax_f1_interval(scores: Array, truth: Array, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of the macro F1 over videos. Arguments and errors as in `argmax_f1`."""
    return bootstrap_interval(
        lambda rows: argmax_f1(scores[rows], truth[rows]).macro, len(truth), resamples=resamples, seed=seed
    )
