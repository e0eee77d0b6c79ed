"""Every metric of one set of scores at once, with the counts of what the means leave out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reeltag.metrics import METRICS
from reeltag.metrics.average_precision import label_ranks, video_ranks
from reeltag.metrics.pairs import Array, Kind, Pairs, pairs_of
from reeltag.metrics.perlabel import LabelResult, per_label

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Results:
    """What `evaluate_scores` found.

    Attributes:
        values: metric name -> value; NaN where the metric is not defined on these videos.
        num_videos: N.
        num_labels: L.
        labels_without_positives: labels that means over labels leave out.
        labels_without_negatives: labels every video carries; their average precision is 1 whatever the scores.
        videos_without_labels: videos that means over videos leave out.
        per_label: the table, in the order of the columns.
    """

    values: dict[str, float]
    num_videos: int
    num_labels: int
    labels_without_positives: int
    labels_without_negatives: int
    videos_without_labels: int
    per_label: list[LabelResult]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; NaN becomes None."""
        plain = asdict(self)
        plain["values"] = {name: None if math.isnan(value) else value for name, value in self.values.items()}
        return plain


def evaluate_scores(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    ignore: Array | Tensor | None = None,
    *,
    kind: Kind | None = None,
    names: Iterable[str] | None = None,
    label_names: Sequence[str] | None = None,
) -> Results:
    """Return metrics by name and the per-label table; each ranking is computed once for all of them.

    Args:
        scores: (N, L), higher is more likely.
        targets: (N, L), 0 or 1.
        ignore: (N, L), true where the truth is unknown.
        kind: what the scores are, for thresholds and calibration; None as in `pairs_of`.
        names: metrics to compute; by default all that are registered.
        label_names: L names for the table; by default the column numbers.

    Raises:
        ValueError: shapes differ, a score is NaN, a target is neither 0 nor 1, or the names are not L.
        UnknownName: a metric is not registered.
    """
    pairs = pairs_of(scores, targets, ignore, kind=kind)
    labels = [str(i) for i in range(pairs.num_labels)] if label_names is None else list(label_names)
    if len(labels) != pairs.num_labels:
        raise ValueError(f"{len(labels)} label names for {pairs.num_labels} columns of scores")
    wanted = list(METRICS) if names is None else list(names)
    ranks, videos = pairs.once(label_ranks), pairs.once(video_ranks)
    return Results(
        values={name: METRICS[name](pairs, pairs.targets) for name in wanted},
        num_videos=pairs.num_videos,
        num_labels=pairs.num_labels,
        labels_without_positives=int(np.sum(ranks.positives == 0)),
        labels_without_negatives=int(np.sum((ranks.negatives == 0) & (ranks.positives > 0))),
        videos_without_labels=int(np.sum(videos.labels == 0)),
        per_label=per_label(pairs, labels),
    )
