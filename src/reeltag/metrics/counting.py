"""Counting how many scores reach each of a few thresholds: the one slow step of every rank metric."""

from __future__ import annotations

import numpy as np

from reeltag.metrics.pairs import Array

_CHUNK = 1 << 16  # scores binned at a time: they and their bins stay in the cache
_FEW_PER_THRESHOLD = 4  # with fewer scores than this for each, sorting them all is as fast
_MIN_BINS, _MAX_BINS = 1 << 11, 1 << 18


def counts_at_or_above(scores: Array, thresholds: Array) -> Array:
    """Return, for each threshold, how many scores are greater or equal; exact, ties included.

    Sorting all scores would answer it, and does for small input. Among many scores and few thresholds most of that
    work is idle: scores are dropped into equal bins, whole bins are counted, and only the scores that share a bin with
    a threshold are sorted. Rounding cannot hurt: the bin number never falls as the score grows, so a score in a higher
    bin than a threshold's is greater than it.

    Args:
        scores: (n,), float32 or float64, any stride, left as it is; infinities allowed.
        thresholds: (m,) of the same type, rising.

    Returns:
        (m,) int64.
    """
    if not thresholds.size:
        return np.zeros(0, dtype=np.int64)
    # One score in 16, or in 4 where they are few, shares a bin with a threshold.
    per_threshold = 16 if scores.size >= 32 * thresholds.size else 4
    num_bins = min(max(_MIN_BINS, 1 << (per_threshold * thresholds.size).bit_length()), _MAX_BINS)
    low, high = thresholds[0], thresholds[-1]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = scores.dtype.type(num_bins - 2) / (high - low)
    few = scores.size < max(num_bins, _FEW_PER_THRESHOLD * thresholds.size)
    if few or not 0 < scale < np.inf:  # also when the thresholds are equal or infinite
        ordered = np.sort(scores)
        return np.asarray(ordered.size - np.searchsorted(ordered, thresholds))

    def bins_of(values: Array) -> Array:
        with np.errstate(over="ignore"):  # a far score may overflow to infinity, which the clip takes
            place = (values - low) * scale
        np.clip(place, -1, num_bins - 2, out=place)
        place += 1  # bin 0 is below every threshold
        return place.astype(np.intp)  # what bincount and take read without a copy

    threshold_bins = bins_of(thresholds)
    shared = np.zeros(num_bins, dtype=bool)
    shared[threshold_bins] = True
    counts = np.zeros(num_bins, dtype=np.int64)
    kept = []
    for start in range(0, scores.size, _CHUNK):
        chunk = np.ascontiguousarray(scores[start : start + _CHUNK])
        bins = bins_of(chunk)
        counts += np.bincount(bins, minlength=num_bins)
        kept.append(chunk[shared.take(bins)])
    counts[shared] = 0  # these are counted one by one
    up_to = counts.cumsum()
    ordered = np.sort(np.concatenate(kept))
    return np.asarray(up_to[-1] - up_to[threshold_bins] + ordered.size - np.searchsorted(ordered, thresholds))
