"""F1, Hamming loss and subset accuracy against scikit-learn, with thresholds of every form."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, hamming_loss

from reeltag.metrics import METRICS
from reeltag.metrics.decisions import decide
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.metrics.pairs import pairs_of


def probabilities(scores):
    return 1 / (1 + np.exp(-scores))


@pytest.mark.parametrize("threshold", [0.5, 0.3, "per_label"])
def test_equal_scikit_learn(draw, threshold):
    scores, targets = draw(80, 12, density=0.3)
    targets[:, 3] = False  # a label without positives
    targets[5] = False  # a video without labels
    values = probabilities(scores)
    bar = np.linspace(0.2, 0.8, 12) if threshold == "per_label" else threshold
    decided = values >= bar
    options = {} if threshold == 0.5 else {"threshold": bar}
    labels, videos = targets.any(axis=0), targets.any(axis=1)
    expected = {
        "f1_macro": f1_score(targets[:, labels], decided[:, labels], average="macro"),
        "f1_micro": f1_score(targets, decided, average="micro"),
        "f1_samples": f1_score(targets[videos], decided[videos], average="samples", zero_division=0),
        "hamming": hamming_loss(targets, decided),
        "subset_accuracy": accuracy_score(targets, decided),
    }
    found = {name: METRICS[name](values, targets, **options) for name in expected}
    assert found == pytest.approx(expected, rel=1e-12)
    assert {name: METRICS[name](scores, targets, **options) for name in expected} == pytest.approx(expected, rel=1e-12)


def test_a_score_at_the_threshold_is_present_in_its_own_precision():
    scores = np.full((2, 1), 0.7, dtype=np.float32)
    targets = np.array([[1], [0]])
    assert METRICS["f1_micro"](scores, targets, threshold=0.7) == pytest.approx(2 / 3)
    assert METRICS["f1_micro"](scores, targets, threshold=torch.tensor([0.7])) == pytest.approx(2 / 3)
    assert METRICS["f1_micro"](np.nextafter(scores, np.float32(0)), targets, threshold=0.7) == 0


def test_counts_of_decisions():
    scores = np.array([[0.9, 0.1], [0.6, 0.8], [0.2, 0.5]])
    targets = np.array([[1, 0], [0, 1], [1, 0]])
    ignore = np.array([[0, 0], [1, 0], [1, 1]])
    found = decide(pairs_of(scores, targets, ignore))
    assert found.found.tolist() == [1, 1]
    assert found.decided.tolist() == [1, 1]
    assert found.positives.tolist() == [1, 1]
    assert found.video_wrong.tolist() == [0, 0, -1]
    assert found.num_pairs == 3


def test_thresholds_that_cannot_be_are_refused(draw):
    scores, targets = draw(6, 4)
    with pytest.raises(ValueError, match=r"\(4,\), one per label, got \(3,\)"):
        METRICS["f1_macro"](scores, targets, threshold=[0.5] * 3)
    with pytest.raises(ValueError, match=r"in \[0, 1\], also for logits, got -1.0 to -1.0"):
        METRICS["hamming"](scores, targets, threshold=-1.0)
    assert METRICS["hamming"](scores, targets, threshold=0.0) == pytest.approx(1 - targets.mean())
    assert METRICS["hamming"](scores, targets, threshold=1.0) == pytest.approx(targets.mean())


def test_the_kind_of_scores_reaches_the_metrics(draw):
    scores, targets = draw(30, 4)
    inside = probabilities(scores)
    assert evaluate_scores(inside, targets).values["hamming"] == np.mean((inside >= 0.5) != targets)
    assert evaluate_scores(inside, targets, kind="logit").values["hamming"] == np.mean(~targets)
    assert evaluate_scores(scores, targets).values == pytest.approx(evaluate_scores(inside, targets).values, rel=1e-12)
    with pytest.raises(ValueError, match="give kind='logit'"):
        evaluate_scores(scores, targets, kind="probability")
    with pytest.raises(ValueError, match="logit, probability or None, got 'odds'"):
        evaluate_scores(scores, targets, kind="odds")
