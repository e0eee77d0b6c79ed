"""Top-1 and top-5 accuracy, the names that single-label data sets use for Hit@k."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reeltag.metrics import METRICS
from reeltag.metrics.hit import hit_rate
from reeltag.metrics.pairs import Array, Pairs, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


@METRICS.register("top_1")
def top_1(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Share of videos whose best-scored label is right; accuracy where each video carries one label.

    Kinetics, Moments in Time and X-Temporal count so on single labels. On videos with several labels any one of them
    counts, so the value is always that of `hit_at_1`; how often a *given* label is found stands in the per-label table.

    Args:
        scores: (N, L), higher is more likely.
        targets: (N, L), 0 or 1; videos without a 1 are left out.
        ignore: (N, L), true where the truth is unknown: the label is neither a hit nor a rival.

    Returns:
        A number in [0, 1]; NaN when no video has a label. A tie with an absent label is a miss.

    Raises:
        ValueError: shapes differ, a score is NaN, or a target is neither 0 nor 1.
    """
    return hit_rate(pairs_of(scores, targets, ignore), 1)


@METRICS.register("top_5")
def top_5(scores: Pairs | Array | Tensor, targets: Array | Tensor, *, ignore: Array | Tensor | None = None) -> float:
    """Share of videos with a right label among the best five. Arguments, result and errors as in `top_1`."""
    return hit_rate(pairs_of(scores, targets, ignore), 5)
