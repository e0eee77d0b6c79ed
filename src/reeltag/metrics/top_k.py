"""Precision and recall of exactly k labels a video, per label and overall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.pairs import Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """Counts of each label over the videos, (L,) each: right among the best k, among the best k, and positives."""

    found: Array
    chosen: Array
    positives: Array

    @property
    def per_label(self) -> tuple[float, float]:
        """Precision and recall, each the mean over labels with positives; a label never chosen has precision 0."""
        some = self.positives > 0
        if not some.any():
            return float("nan"), float("nan")
        found, chosen = self.found[some], self.chosen[some]
        precision = np.divide(found, chosen, out=np.zeros(len(found)), where=chosen > 0)
        return float(precision.mean()), float(np.mean(found / self.positives[some]))

    @property
    def overall(self) -> tuple[float, float]:
        """Precision and recall of all choices together."""
        positives = int(self.positives.sum())
        if not positives:
            return float("nan"), float("nan")
        found = float(self.found.sum())
        return found / float(self.chosen.sum()), found / positives


def top_k(pairs: Pairs, k: int) -> TopK:
    """Choose the k best-scored labels of every video, and count.

    Labels that tie across the k-th place share the places that are left: of three equal scores for one place each is
    chosen by a third. So exactly k are chosen (all, where fewer are known) and neither their order nor chance decides.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    found, chosen = np.zeros(pairs.num_labels), np.zeros(pairs.num_labels)
    positives = np.zeros(pairs.num_labels, dtype=np.int64)
    places = min(k, pairs.num_labels)
    for _, scores, positive, known in pairs.row_blocks():
        values = scores if known is None else np.where(known, scores, -np.inf)
        last = np.partition(values, pairs.num_labels - places, axis=1)[:, pairs.num_labels - places, None]  # k-th best
        above, level = values > last, values == last
        if known is not None:
            level &= known
        left = places - above.sum(axis=1, keepdims=True)
        share = np.minimum(1, left / np.maximum(1, level.sum(axis=1, keepdims=True)))
        taken = above + level * share  # (n, L)
        chosen += taken.sum(axis=0)
        found += (taken * positive).sum(axis=0)
        positives += positive.sum(axis=0)
    return TopK(found, chosen, positives)


def _best_three(pairs: Pairs) -> TopK:
    return top_k(pairs, 3)


def _best(scores: Pairs | Array | Tensor, targets: Array | Tensor, ignore: Array | Tensor | None, k: int = 3) -> TopK:
    pairs = pairs_of(scores, targets, ignore)
    return pairs.once(_best_three) if k == 3 else top_k(pairs, k)


def _harmonic_mean(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@METRICS.register("cp_at_3")
def cp_at_3(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, k: int = 3, ignore: Array | Tensor | None = None
) -> float:
    """Per-class precision: mean over labels of (right choices) / (choices) when every video gets its three best labels.

    Paper: Gong et al. Deep Convolutional Ranking for Multilabel Image Annotation. ICLR 2014, arXiv:1312.4894, section
    4. Labels without positives are left out; a label that is never chosen counts 0. The evaluator of Li, Song and Luo
    (CVPR 2017) counts the former as 0 too, an earlier version of it skipped the latter. The code of rml-cnn calls a
    mean over *videos* per class. Labels that tie across the third place share it.

    Args:
        scores: (N, L), higher is more likely; logits or probabilities.
        targets: (N, L), 0 or 1. Choices for videos without labels count as wrong.
        k: choices a video, >= 1; all where fewer labels are known.
        ignore: (N, L), true where the truth is unknown: the label is never chosen.

    Returns:
        A number in [0, 1]; NaN when no label has a positive.

    Raises:
        ValueError: shapes differ, a score is NaN, a target is neither 0 nor 1, or k is below 1.
    """
    return _best(scores, targets, ignore, k).per_label[0]


@METRICS.register("cr_at_3")
def cr_at_3(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, k: int = 3, ignore: Array | Tensor | None = None
) -> float:
    """Per-class recall: mean over labels with positives of (right choices) / (positives), three choices a video.

    Paper, arguments, result and errors as in `cp_at_3`.
    """
    return _best(scores, targets, ignore, k).per_label[1]


@METRICS.register("op_at_3")
def op_at_3(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, k: int = 3, ignore: Array | Tensor | None = None
) -> float:
    """Overall precision: right choices of all labels / all choices, three a video.

    A video with fewer than three labels makes 1 unreachable. Paper, arguments, result and errors as in `cp_at_3`.
    """
    return _best(scores, targets, ignore, k).overall[0]


@METRICS.register("or_at_3")
def or_at_3(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, k: int = 3, ignore: Array | Tensor | None = None
) -> float:
    """Overall recall: right choices of all labels / all positives, three choices a video.

    Paper, arguments, result and errors as in `cp_at_3`.
    """
    return _best(scores, targets, ignore, k).overall[1]


@METRICS.register("cf1")
def cf1(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, k: int = 3, ignore: Array | Tensor | None = None
) -> float:
    """Harmonic mean of `cp_at_3` and `cr_at_3` (of the means, not the mean of each label's F1); 0 when both are 0.

    Paper, arguments, result and errors as in `cp_at_3`.
    """
    return _harmonic_mean(*_best(scores, targets, ignore, k).per_label)


@METRICS.register("of1")
def of1(
    scores: Pairs | Array | Tensor, targets: Array | Tensor, *, k: int = 3, ignore: Array | Tensor | None = None
) -> float:
    """Harmonic mean of `op_at_3` and `or_at_3`; 0 when both are 0.

    Paper, arguments, result and errors as in `cp_at_3`.
    """
    return _harmonic_mean(*_best(scores, targets, ignore, k).overall)
