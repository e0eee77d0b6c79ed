"""The per-label table and the counts of what the means leave out."""

import json

import numpy as np
import pytest

from reeltag.errors import UnknownName
from reeltag.metrics import METRICS
from reeltag.metrics.evaluate import evaluate_scores

SCORES = np.array([[0.9, 0.8, 0.1], [0.6, 0.7, 0.2], [0.3, 0.9, 0.4], [0.1, 0.2, 0.3]])
TARGETS = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_table_by_hand():
    results = evaluate_scores(SCORES, TARGETS, label_names=["run", "jump", "swim"])
    run, jump, swim = results.per_label
    assert (run.label, run.positives, run.negatives, run.average_precision) == ("run", 2, 2, 1.0)
    # Video 0 also jumps, which is no rival; in video 1 the absent `jump` scores higher.
    assert (run.top_1, run.best_f1, run.best_threshold) == (0.5, 1.0, 0.6)
    assert (jump.positives, jump.average_precision, jump.top_1, jump.best_threshold) == (2, 1.0, 1.0, 0.8)
    assert (swim.positives, swim.negatives, swim.average_precision, swim.top_1, swim.best_f1) == (
        0,
        4,
        None,
        None,
        None,
    )
    assert (results.labels_without_positives, results.videos_without_labels) == (1, 1)
    assert (results.labels_without_negatives, results.num_videos, results.num_labels) == (0, 4, 3)


def test_values_are_those_of_the_metrics_alone(draw):
    scores, targets = draw(50, 30)
    ignore = np.random.default_rng(0).random(scores.shape) < 0.1
    results = evaluate_scores(scores, targets, ignore)
    assert list(results.values) == list(METRICS)
    assert results.values == {name: METRICS[name](scores, targets, ignore=ignore) for name in METRICS}
    table = [row.average_precision for row in results.per_label]
    assert np.mean(table) == pytest.approx(results.values["map_macro"])


def test_ignored_videos_leave_the_counts_of_a_label():
    ignore = np.zeros_like(TARGETS)
    ignore[2:, 0] = 1
    row = evaluate_scores(SCORES, TARGETS, ignore).per_label[0]
    assert (row.label, row.positives, row.negatives) == ("0", 2, 0)
    assert evaluate_scores(SCORES, TARGETS, ignore).labels_without_negatives == 1


def test_to_dict_is_strict_json():
    results = evaluate_scores(np.ones((2, 2)), np.zeros((2, 2)), names=["map_macro"])
    plain = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert plain["values"] == {"map_macro": None}
    assert plain["labels_without_positives"] == plain["videos_without_labels"] == 2


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="2 label names for 3 columns"):
        evaluate_scores(SCORES, TARGETS, label_names=["a", "b"])
    with pytest.raises(UnknownName, match="Did you mean 'map_macro'"):
        evaluate_scores(SCORES, TARGETS, names=["map_makro"])
