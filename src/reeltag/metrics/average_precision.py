"""The four mean average precisions, from the ranks of the positives alone.

Average precision is the sum over distinct thresholds of (recall gained) x (precision there), without interpolation;
equal scores share one threshold. It equals (1/P) x the sum over the P positives of
(positives that score at least as much) / (all that score at least as much), so only the ranks of positives are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.counting import counts_at_or_above
from reeltag.metrics.pairs import BLOCK_PAIRS, Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor

_GATHER_PAIRS = 1 << 18  # pairs compared at a time within rows
_TOGETHER = 1 << 13  # positives of several labels that are measured together


@dataclass(frozen=True)
class LabelRanks:
    """Per label, over the videos whose truth is known; (L,) each, NaN where the label has no positive."""

    average_precision: Array
    best_f1: Array
    best_threshold: Array
    positives: Array
    negatives: Array


@dataclass(frozen=True)
class VideoRanks:
    """Per video, over the labels whose truth is known.

    Attributes:
        average_precision: (N,), NaN where the video has no label.
        wrong_above: (N,), absent labels that score at least as much as the best present one; -1 without labels.
        labels: (N,), present labels.
        coverage: (N,), labels down the ranking until every present one is met; NaN without labels.
        wrong_pairs: (N,), share of the (present, absent) pairs in which the absent label scores at least as much; NaN
            without labels, 0 without absent ones.
        own_precision: (N,), share of present labels among as many best ones; NaN without labels.
        first: (L,), videos in which the label is present and outscores every absent label.
    """

    average_precision: Array
    wrong_above: Array
    labels: Array
    coverage: Array
    wrong_pairs: Array
    own_precision: Array
    first: Array


def label_ranks(pairs: Pairs) -> LabelRanks:
    """Rank the videos of every label: average precision and the best F1 with its threshold."""
    values = np.full((3, pairs.num_labels), np.nan)
    positives, negatives = (np.zeros(pairs.num_labels, dtype=np.int64) for _ in range(2))
    waiting: list[tuple[int, Array, Array]] = []
    size = 0
    for label, scores, positive in pairs.columns():
        found = np.sort(scores[positive])
        positives[label], negatives[label] = found.size, scores.size - found.size
        if found.size:
            waiting.append((label, found, counts_at_or_above(scores, found)))
            size += found.size
        if size >= _TOGETHER:
            _measure(waiting, values)
            waiting, size = [], 0
    if waiting:
        _measure(waiting, values)
    return LabelRanks(values[0], values[1], values[2], positives, negatives)


def _measure(labels: list[tuple[int, Array, Array]], values: Array) -> None:
    """Write average precision, best F1 and its threshold of several labels into (3, L), in one go: labels are many.

    Each label comes with (P,) the rising scores of its positives and (P,) the videos at or above each of them.
    """
    columns = [label for label, _, _ in labels]
    found, above = np.concatenate([part for _, part, _ in labels]), np.concatenate([part for _, _, part in labels])
    sizes = np.array([len(part) for _, part, _ in labels])
    ends = sizes.cumsum()
    starts = ends - sizes
    place = np.arange(found.size)
    begins = np.r_[True, found[1:] != found[:-1]]  # a run of equal scores
    begins[starts] = True
    hits = np.repeat(ends, sizes) - np.maximum.accumulate(np.where(begins, place, 0))  # positives at or above
    values[0, columns] = np.add.reduceat(hits / above, starts) / sizes
    f1 = 2 * hits / (above + np.repeat(sizes, sizes))
    best = np.maximum.reduceat(f1, starts)
    highest = np.maximum.reduceat(np.where(f1 == np.repeat(best, sizes), place, -1), starts)  # of equally good ones
    values[1, columns], values[2, columns] = best, found[highest]


def video_ranks(pairs: Pairs) -> VideoRanks:
    """Rank the labels of every video by comparing each present label with its row."""
    precision, coverage, wrong_pairs, own = (np.full(pairs.num_videos, np.nan) for _ in range(4))
    wrong_above = np.full(pairs.num_videos, -1, dtype=np.int32)
    labels = np.zeros(pairs.num_videos, dtype=np.int32)
    first = np.zeros(pairs.num_labels, dtype=np.int64)
    step = max(1, _GATHER_PAIRS // max(1, pairs.num_labels))
    for rows, scores, positive, known in pairs.row_blocks():
        at_row, at_label = np.nonzero(positive)
        above, hits = (np.empty(at_row.size, dtype=np.int64) for _ in range(2))
        packed = np.packbits(positive, axis=1)
        for start in range(0, at_row.size, step):
            part = slice(start, start + step)
            row = at_row[part]
            reach = scores[row] >= scores[row, at_label[part], None]  # (P, L)
            bits = np.packbits(reach if known is None else reach & known[row], axis=1)
            above[part] = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
            hits[part] = np.bitwise_count(bits & packed[row]).sum(axis=1, dtype=np.int64)
        count = np.bincount(at_row, minlength=len(scores))
        wrong, filled = above - hits, count > 0
        absent = (pairs.num_labels if known is None else known.sum(axis=1)) - count

        labels[rows] = count
        precision[rows] = _mean_by_row(hits / above, at_row, count)
        wrong_pairs[rows] = _mean_by_row(wrong, at_row, count) / np.maximum(absent, 1)
        own[rows] = _mean_by_row(above <= count[at_row], at_row, count)
        first += np.bincount(at_label[wrong == 0], minlength=pairs.num_labels)
        best, last = np.full(len(scores), pairs.num_labels), np.zeros(len(scores))
        np.minimum.at(best, at_row, wrong)
        np.maximum.at(last, at_row, above)
        wrong_above[rows] = np.where(filled, best, -1)
        coverage[rows] = np.where(filled, last, np.nan)
    return VideoRanks(precision, wrong_above, labels, coverage, wrong_pairs, own, first)


def _mean_by_row(values: Array, row: Array, count: Array) -> Array:
    total = np.bincount(row, weights=values, minlength=len(count))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def pooled_average_precision(blocks: Callable[[], Iterator[tuple[Array, Array]]], num_positives: int) -> float:
    """Return the average precision of all pairs in one list; NaN without positives.

    Args:
        blocks: called twice; yields (n,) scores and (n,) bool truth.
        num_positives: what recall is counted against; it may exceed the positives among the blocks.
    """
    if not num_positives:
        return float("nan")
    found = np.sort(np.concatenate([scores[positive] for scores, positive in blocks()]))
    thresholds, start = np.unique(found, return_index=True)
    above = np.zeros(thresholds.size, dtype=np.int64)
    for scores, _ in blocks():
        above += counts_at_or_above(scores, thresholds)
    gained = np.diff(start, append=found.size)
    return float((gained * (found.size - start) / above).sum() / num_positives)


def pooled_precision(pairs: Pairs) -> float:
    """Return the average precision over all known pairs of all videos and labels."""
    total = int(pairs.once(label_ranks).positives.sum())
    max_pairs = max(BLOCK_PAIRS, 2 * total)  # so that searching the thresholds never outweighs sorting

    def blocks() -> Iterator[tuple[Array, Array]]:
        for _, scores, positive, known in pairs.row_blocks(max_pairs):
            if known is None:
                yield scores.ravel(), positive.ravel()
            else:
                yield scores[known], positive[known]

    return pooled_average_precision(blocks, total)


def mean_of_known(values: Array, weights: Array | None = None) -> float:
    """Return the mean of the entries that are not NaN, NaN when there are none."""
    known = ~np.isnan(values)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=None if weights is None else weights[known]))


@METRICS.register("map_macro")
def map_macro(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None
) -> float:
    """Mean over labels of the average precision over videos; labels without positives are left out.

    scikit-learn's `macro` counts such labels as 0.

    Args:
        scores: (N, L), higher is more likely.
        targets: (N, L), 0 or 1.
        ignore: (N, L), true where the truth is unknown: the video is left out of that label.

    Returns:
        A number in (0, 1]; NaN when no label has a positive.

    Raises:
        ValueError: shapes differ, a score is NaN, or a target is neither 0 nor 1.
    """
    return mean_of_known(pairs_of(scores, targets, ignore).once(label_ranks).average_precision)


@METRICS.register("map_weighted")
def map_weighted(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None
) -> float:
    """Mean over labels of the average precision over videos, each label weighted by its positives.

    Arguments, result and errors as in `map_macro`.
    """
    ranks = pairs_of(scores, targets, ignore).once(label_ranks)
    return mean_of_known(ranks.average_precision, ranks.positives)


@METRICS.register("map_samples")
def map_samples(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None
) -> float:
    """Mean over videos of the average precision over labels; videos without labels are left out.

    This is the mAP of Multi-Moments in Time ("sample level"; arXiv:2003.05837 reports it times 100). The code of that
    entry counts a video without labels as 0. Arguments, result and errors as in `map_macro`.
    """
    return mean_of_known(pairs_of(scores, targets, ignore).once(video_ranks).average_precision)


@METRICS.register("map_micro")
def map_micro(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None
) -> float:
    """Average precision of all pairs of a video and a label in one list; the same number as `gap`.

    Arguments, result and errors as in `map_macro`.
    """
    return pairs_of(scores, targets, ignore).once(pooled_precision)
