"""Measures of the decision present or absent: F1, Hamming loss and subset accuracy at one threshold or one a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import mean_of_known
from reeltag.metrics.pairs import Array, Pairs, as_array, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Decisions:
    """What deciding every known pair gave.

    Attributes:
        found: (L,) videos decided present that carry the label.
        decided: (L,) videos decided present.
        positives: (L,) videos that carry it.
        video_f1: (N,) F1 of each video's labels; NaN without labels.
        video_wrong: (N,) wrong decisions; -1 where no label of the video is known.
        num_pairs: known pairs.
    """

    found: Array
    decided: Array
    positives: Array
    video_f1: Array
    video_wrong: Array
    num_pairs: int


def decide(pairs: Pairs, threshold: float | Array | Tensor = 0.5) -> Decisions:
    """Call a label present where its probability is at least the threshold, and count.

    Args:
        pairs: scores of either kind; logits are compared with the log-odds of the threshold.
        threshold: a probability in [0, 1], or one a label (L,).

    Raises:
        ValueError: a threshold is outside [0, 1], or they are not L.
    """
    bars = _bars(pairs, threshold)
    found, decided, positives = (np.zeros(pairs.num_labels, dtype=np.int64) for _ in range(3))
    f1 = np.full(pairs.num_videos, np.nan)
    wrong = np.full(pairs.num_videos, -1, dtype=np.int64)
    num_pairs = 0
    for rows, scores, positive, known in pairs.row_blocks():
        chosen = scores >= bars.astype(scores.dtype)
        if known is not None:
            chosen &= known
        hits = chosen & positive
        found += hits.sum(axis=0)
        decided += chosen.sum(axis=0)
        positives += positive.sum(axis=0)
        labels = positive.sum(axis=1)
        np.divide(2 * hits.sum(axis=1), chosen.sum(axis=1) + labels, out=f1[rows], where=labels > 0)
        seen = np.full(len(scores), pairs.num_labels) if known is None else known.sum(axis=1)
        wrong[rows] = np.where(seen > 0, (chosen != positive).sum(axis=1), -1)
        num_pairs += int(seen.sum())
    return Decisions(found, decided, positives, f1, wrong, num_pairs)


def _bars(pairs: Pairs, threshold: float | Array | Tensor) -> Array:
    bars = as_array(threshold).astype(np.float64)
    if bars.shape not in ((), (pairs.num_labels,)):
        raise ValueError(f"threshold must be a number or ({pairs.num_labels},), one per label, got {bars.shape}")
    if not ((bars >= 0) & (bars <= 1)).all():
        raise ValueError(f"a threshold is a probability in [0, 1], also for logits, got {bars.min()} to {bars.max()}")
    if pairs.kind == "probability":
        return bars
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(bars) - np.log1p(-bars))


def _even(pairs: Pairs) -> Decisions:
    return decide(pairs)


def _decisions(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    ignore: Array | Tensor | None,
    threshold: float | Array | Tensor,
) -> Decisions:
    pairs = pairs_of(scores, targets, ignore)
    if isinstance(threshold, float) and threshold == 0.5:
        return pairs.once(_even)
    return decide(pairs, threshold)


@METRICS.register("f1_macro")
def f1_macro(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    *,
    threshold: float | Array | Tensor = 0.5,
    ignore: Array | Tensor | None = None,
) -> float:
    """Mean over labels of 2 TP / (2 TP + FP + FN); labels without positives are left out.

    scikit-learn counts such labels as 0 (or as `zero_division` says).

    Args:
        scores: (N, L) probabilities, or logits (known by values outside [0, 1], or by the `kind` of a `Pairs`).
        targets: (N, L), 0 or 1.
        threshold: the probability from which a label is present, in [0, 1], or one a label (L,). Logits are compared
            with its log-odds.
        ignore: (N, L), true where the truth is unknown: the pair is left out.

    Returns:
        A number in [0, 1]; NaN when no label has a positive.

    Raises:
        ValueError: shapes differ, a score is NaN, a target is neither 0 nor 1, or a threshold is outside [0, 1].
    """
    found = _decisions(scores, targets, ignore, threshold)
    total = found.decided + found.positives
    f1 = np.full(len(total), np.nan)
    np.divide(2 * found.found, total, out=f1, where=found.positives > 0)
    return mean_of_known(f1)


@METRICS.register("f1_micro")
def f1_micro(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    *,
    threshold: float | Array | Tensor = 0.5,
    ignore: Array | Tensor | None = None,
) -> float:
    """2 TP / (2 TP + FP + FN) of all pairs of a video and a label together. Arguments and errors as in `f1_macro`.

    Returns a number in [0, 1]; NaN when no pair is positive.
    """
    found = _decisions(scores, targets, ignore, threshold)
    positives = int(found.positives.sum())
    return float(2 * found.found.sum() / (found.decided.sum() + positives)) if positives else float("nan")


@METRICS.register("f1_samples")
def f1_samples(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    *,
    threshold: float | Array | Tensor = 0.5,
    ignore: Array | Tensor | None = None,
) -> float:
    """Mean over videos of the F1 of their labels; videos without labels are left out.

    scikit-learn counts such videos as 0. Arguments and errors as in `f1_macro`; NaN when no video has a label.
    """
    return mean_of_known(_decisions(scores, targets, ignore, threshold).video_f1)


@METRICS.register("hamming")
def hamming(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    *,
    threshold: float | Array | Tensor = 0.5,
    ignore: Array | Tensor | None = None,
) -> float:
    """Share of the known pairs that are decided wrongly (Hamming loss); lower is better.

    Arguments and errors as in `f1_macro`. Every video and label counts, also without positives; NaN when no pair is
    known.
    """
    found = _decisions(scores, targets, ignore, threshold)
    wrong = found.video_wrong[found.video_wrong >= 0].sum()
    return float(wrong / found.num_pairs) if found.num_pairs else float("nan")


@METRICS.register("subset_accuracy")
def subset_accuracy(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    *,
    threshold: float | Array | Tensor = 0.5,
    ignore: Array | Tensor | None = None,
) -> float:
    """Share of videos whose known labels are all decided rightly.

    Arguments and errors as in `f1_macro`. A video without labels counts: it is right when nothing is called present, as
    in scikit-learn's `accuracy_score`. NaN when no pair is known.
    """
    wrong = _decisions(scores, targets, ignore, threshold).video_wrong
    known = wrong >= 0
    return float(np.mean(wrong[known] == 0)) if known.any() else float("nan")
