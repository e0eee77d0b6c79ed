"""Charts: points at the right pixels, round ticks, escaped text."""

import re
import xml.etree.ElementTree as ET

import pytest

from reeltag.report.charts import Series, _log_ticks, _ticks, column_chart, line_chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.013, 0.087, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (0, 2990, [0, 1000, 2000, 3000]),
        (-3, 4, [-4, -2, 0, 2, 4]),
        (5, 5, [4.4, 4.6, 4.8, 5, 5.2, 5.4, 5.6]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1e-7, 3e-7, [1e-7, 1.5e-7, 2e-7, 2.5e-7, 3e-7]),
    ],
)
def test_ticks_are_round_and_cover_the_data(low, high, expected):
    assert _ticks(low, high) == pytest.approx(expected, abs=1e-12)


def test_log_ticks_are_whole_powers():
    assert _log_ticks(-2.3, -0.4) == [-3, -2, -1, 0]
    assert _log_ticks(-1, -1) == [-1, 0]


def test_points_lie_where_their_values_are():
    chart = line_chart([Series("a", [(0, 0.0), (5, 1.0), (10, 0.5)])], x_label="step", y_label="loss")
    root = ET.fromstring(chart)
    points = [tuple(map(float, p.split(","))) for p in root.find("polyline").get("points").split()]
    assert points == [(66, 198), (287, 12), (508, 105)]  # the frame is 66..508 wide and 12..198 high
    ticks = {t.text: float(t.get("y")) for t in root.iter("text") if t.get("text-anchor") == "end"}
    assert ticks["0"] == 202  # text stands 4 px below its line
    assert ticks["1"] == 16


def test_log_axis_and_points_that_are_no_numbers():
    points = [(0, 100.0), (1, float("nan")), (2, 0.0), (3, 1.0), (4, float("inf"))]
    root = ET.fromstring(line_chart([Series("a", points)], x_label="x", y_label="y", log_y=True))
    assert len(root.find("polyline").get("points").split()) == 2
    assert {"1", "10", "100"} <= {text.text for text in root.iter("text")}
    assert line_chart([Series("a", [(0, float("nan"))])], x_label="x", y_label="y") == ""
    assert line_chart([], x_label="x", y_label="y") == ""


def test_long_lines_are_thinned_without_losing_their_mean():
    chart = line_chart([Series("a", [(i, float(i % 2)) for i in range(100_000)])], x_label="x", y_label="y")
    heights = [float(p.split(",")[1]) for p in ET.fromstring(chart).find("polyline").get("points").split()]
    assert len(heights) == 400
    assert all(height == pytest.approx(105, abs=1) for height in heights)  # 0.5 is the middle
    assert len(chart) < 10_000


def test_legend_and_labels_are_escaped():
    chart = line_chart([Series("<b>", [(0, 1)]), Series("&", [(0, 2)])], x_label="<i>", y_label='"')
    assert "<b>" not in chart
    assert "<i>" not in chart
    assert "&lt;b&gt;" in chart
    assert "&amp;" in chart


def test_columns_have_their_heights_and_names():
    chart = column_chart([1, 4, 0], names=["a", "<b>", "c"], x_label="x", y_label="y")
    root = ET.fromstring(chart)
    heights = [float(rect.get("height")) for rect in root.iter("rect")]
    assert heights == [46.5, 186, 0]
    assert [rect.find("title").text for rect in root.iter("rect")] == ["a: 1", "<b>: 4", "c: 0"]
    assert column_chart([], names=[], x_label="x", y_label="y") == ""
    assert len(re.findall("<rect", column_chart([0, 0], names=["a", "b"], x_label="x", y_label="y"))) == 2
