"""The reliability chart: how often a label is there, among the pairs of a video and a label that got a probability."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from reeltag.report.charts import Series, line_chart
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores

_BINS = 15
_LEAST = 10  # pairs of a bin, so that a point is not one video


def reliability_chart(scores: Scores, calibration: Calibration | None) -> Markup:
    """Return the chart of a split with truth: as scored, calibrated if there is a calibration, and as it should be.

    Bins of equal width on the probability, all labels together; points on the diagonal are right. Empty without truth.
    """
    if scores.targets is None:
        return Markup("")
    known = np.ones(scores.targets.shape, dtype=bool) if scores.ignore is None else ~scores.ignore
    if scores.covered is not None:
        known = known & scores.covered[:, None]
    truth, given = (scores.targets > 0)[known], scores.probabilities()
    curves = [Series("as scored", _points(given[known], truth))]
    if calibration is not None and calibration.changes_scores and calibration.label_names == scores.label_names:
        curves.append(Series("calibrated", _points(calibration.apply(given)[known], truth)))
    if not any(curve.points for curve in curves):
        return Markup("")
    curves.append(Series("as it should be", [(0.0, 0.0), (1.0, 1.0)]))
    return line_chart(curves, x_label="probability", y_label="share of pairs that are true")


def _points(probabilities: np.ndarray, truth: np.ndarray) -> list[tuple[float, float]]:
    """Return (mean probability, share that is true) of each bin with enough pairs."""
    place = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    count = np.bincount(place, minlength=_BINS)
    total = np.bincount(place, weights=probabilities, minlength=_BINS)
    found = np.bincount(place, weights=truth, minlength=_BINS)
    return [(float(total[i] / count[i]), float(found[i] / count[i])) for i in range(_BINS) if count[i] >= _LEAST]
