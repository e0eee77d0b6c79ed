"""The reliability chart: points where probabilities and frequencies say, and a second line for a calibration."""

import re

import numpy as np

from reeltag.report.reliability import reliability_chart
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores


def scores_of(values, targets, **more):
    names = [f"l{label}" for label in range(values.shape[1])]
    ids = [f"v{row}" for row in range(len(values))]
    return Scores(ids, values.astype(np.float32), names, "probability", targets.astype(np.uint8), **more)


def lines(chart):
    return [
        [tuple(map(float, point.split(","))) for point in found.split()]
        for found in re.findall(r'<polyline[^>]*points="([^"]+)"', chart)
    ]


def test_points_lie_where_mean_and_frequency_say():
    values = np.repeat([[0.1], [0.9]], 20, axis=0)
    targets = np.r_[np.arange(20) < 5, np.arange(20) < 16][:, None]  # 0.25 and 0.8 are true
    scored, ideal = lines(reliability_chart(scores_of(values, targets), None))
    (left, bottom), (right, top) = ideal

    def place(point):
        return (point[0] - left) / (right - left), (point[1] - bottom) / (top - bottom)

    assert np.allclose([place(point) for point in scored], [(0.1, 0.25), (0.9, 0.8)], atol=2e-3)


def test_a_calibration_has_its_own_line_and_unknown_pairs_none():
    generator = np.random.default_rng(0)
    values = generator.random((400, 2))
    targets = generator.random((400, 2)) < values**2
    ignore, covered = generator.random((400, 2)) < 0.2, np.arange(400) % 4 > 0
    calibration = Calibration(label_names=["l0", "l1"], slopes=[1.5, 1.5], shifts=[-0.5, -0.5], thresholds=[0.5, 0.5])
    chart = reliability_chart(scores_of(values, targets, ignore=ignore, covered=covered), calibration)
    assert len(lines(chart)) == 3
    assert "calibrated" in chart
    seen = covered[:, None] & ~ignore
    other = scores_of(np.where(seen, values, 0.5), np.where(seen, targets, True), ignore=ignore, covered=covered)
    assert reliability_chart(other, calibration) == chart
    assert len(lines(reliability_chart(scores_of(values, targets), None))) == 2


def test_nothing_is_drawn_of_few_pairs_or_without_truth():
    assert not reliability_chart(Scores(["a"], np.full((1, 1), 0.5, np.float32), ["x"], "probability"), None)
    assert not reliability_chart(scores_of(np.full((9, 1), 0.5), np.ones((9, 1))), None)
