"""The per-label table: how well each label is found, and on how many videos that rests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reeltag.metrics.average_precision import label_ranks, video_ranks
from reeltag.metrics.pairs import Array, Pairs


@dataclass(frozen=True)
class LabelResult:
    """One label's row; values that need a positive are None where there is none.

    Attributes:
        label: its name.
        positives: videos that carry it.
        negatives: videos known not to carry it.
        average_precision: over the videos whose truth is known, in (0, 1].
        top_1: share of the videos that carry the label in which it outscores every absent label. The video's other
            labels are no rivals, so a perfect ranking gives 1 also on videos with several labels; a tie is a miss.
        best_f1: the best F1 that one threshold reaches on these scores, so an optimistic number.
        best_threshold: the highest score at which it is reached; present means score >= threshold.
    """

    label: str
    positives: int
    negatives: int
    average_precision: float | None
    top_1: float | None
    best_f1: float | None
    best_threshold: float | None


def per_label(pairs: Pairs, names: Sequence[str]) -> list[LabelResult]:
    """Return one row a label, in the order of the columns."""
    ranks, first = pairs.once(label_ranks), pairs.once(video_ranks).first

    def value(values: Array, label: int) -> float | None:
        return float(values[label]) if ranks.positives[label] else None

    return [
        LabelResult(
            label=name,
            positives=int(ranks.positives[i]),
            negatives=int(ranks.negatives[i]),
            average_precision=value(ranks.average_precision, i),
            top_1=value(first / ranks.positives.clip(1), i),
            best_f1=value(ranks.best_f1, i),
            best_threshold=value(ranks.best_threshold, i),
        )
        for i, name in enumerate(names)
    ]
