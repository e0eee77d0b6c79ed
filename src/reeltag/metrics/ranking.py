"""Measures of each video's ranking of labels, beside its average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import mean_of_known, video_ranks
from reeltag.metrics.hit import hit_rate
from reeltag.metrics.pairs import Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


@METRICS.register("lrap")
def lrap(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Label ranking average precision: the same number as `map_samples`, under the name of multi-label learning.

    Paper: Schapire, Singer. BoosTexter. Machine Learning 2000. scikit-learn counts a video without labels as 1; here
    it is left out.

    Args:
        scores: (N, L), higher is more likely.
        targets: (N, L), 0 or 1.
        ignore: (N, L), true where the truth is unknown: the label is left out of the video's ranking.

    Returns:
        A number in (0, 1]; NaN when no video has a label.

    Raises:
        ValueError: shapes differ, a score is NaN, or a target is neither 0 nor 1.
    """
    return mean_of_known(pairs_of(scores, targets, ignore).once(video_ranks).average_precision)


@METRICS.register("coverage")
def coverage(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Mean over videos of the labels one must read, best first, to meet all of the video's own; lower is better.

    Ties count against the video. scikit-learn's `coverage_error` counts a video without labels as 0; here it is left
    out. Returns at least the mean number of labels of a video. Arguments and errors as in `lrap`.
    """
    return mean_of_known(pairs_of(scores, targets, ignore).once(video_ranks).coverage)


@METRICS.register("ranking_loss")
def ranking_loss(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None
) -> float:
    """Mean over videos of the share of (present, absent) label pairs in the wrong order; lower is better.

    A tie is a wrong order. A video that carries every label has no pair and counts 0, as in scikit-learn, which also
    counts a video without labels as 0; here that one is left out. Arguments and errors as in `lrap`.
    """
    return mean_of_known(pairs_of(scores, targets, ignore).once(video_ranks).wrong_pairs)


@METRICS.register("one_error")
def one_error(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None
) -> float:
    """Share of videos whose best-scored label is not one of theirs: 1 - `hit_at_1`; lower is better.

    Arguments and errors as in `lrap`.
    """
    return 1 - hit_rate(pairs_of(scores, targets, ignore), 1)


@METRICS.register("perr")
def perr(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Precision at equal recall rate: of a video's n best labels, with n labels of its own, the share that is right.

    Paper: Abu-El-Haija et al. YouTube-8M, arXiv:1609.08675. Departures from its code: a video without labels is left
    out (there it counts 0), a score <= 0 is a prediction like any other, and labels that tie across the n-th place are
    all outside. Arguments, result and errors as in `lrap`, but the result can be 0.
    """
    return mean_of_known(pairs_of(scores, targets, ignore).once(video_ranks).own_precision)
