"""Global average precision: all videos' predictions in one ranked list (the YouTube-8M measure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import label_ranks, pooled_average_precision, pooled_precision
from reeltag.metrics.pairs import BLOCK_PAIRS, Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


@METRICS.register("gap")
def gap(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Average precision over every pair of a video and a label, in one list.

    Paper: Abu-El-Haija et al. YouTube-8M, arXiv:1609.08675, with the cut at k left away. Without ties it is also
    scikit-learn's `average="micro"`.

    Args:
        scores: (N, L), higher is more likely; comparable between videos and labels.
        targets: (N, L), 0 or 1.
        ignore: (N, L), true where the truth is unknown: the pair is left out.

    Returns:
        A number in (0, 1]; NaN without positives.

    Raises:
        ValueError: shapes differ, a score is NaN, or a target is neither 0 nor 1.
    """
    return pairs_of(scores, targets, ignore).once(pooled_precision)


@METRICS.register("gap_at_20")
def gap_at_20(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None, k: int = 20
) -> float:
    """Average precision over the `k` best labels of each video, in one list; missed labels cost recall.

    Paper: Abu-El-Haija et al. YouTube-8M, arXiv:1609.08675; recall is counted against the positives of all labels.
    Departure: the published code breaks ties at random, so that its value depends on the order of batches. Here labels
    that tie at the k-th place all enter, and equal scores share one threshold.

    Args:
        scores: (N, L), higher is more likely; comparable between videos and labels.
        targets: (N, L), 0 or 1.
        ignore: (N, L), true where the truth is unknown: the pair takes no place among the k.
        k: labels kept of each video, >= 1.

    Returns:
        A number in [0, 1]; NaN without positives.

    Raises:
        ValueError: shapes differ, a score is NaN, a target is neither 0 nor 1, or `k` < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    pairs = pairs_of(scores, targets, ignore)
    if k >= pairs.num_labels:
        return pairs.once(pooled_precision)
    total = int(pairs.once(label_ranks).positives.sum())
    max_pairs = max(BLOCK_PAIRS, 2 * total)

    def blocks() -> Iterator[tuple[Array, Array]]:
        for _, values, positive, known in pairs.row_blocks(max_pairs):
            kept = values if known is None else np.where(known, values, -np.inf)
            last = np.partition(kept, pairs.num_labels - k, axis=1)[:, pairs.num_labels - k, None]  # (n, 1) k-th best
            entered = kept >= last if known is None else (kept >= last) & known
            yield values[entered], positive[entered]

    return pooled_average_precision(blocks, total)
