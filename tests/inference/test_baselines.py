"""Baselines on feature matrices."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Solver

from reeltag.errors import UnknownName
from reeltag.inference.baselines import BASELINES, create_baseline
from reeltag.metrics import METRICS


@pytest.fixture(scope="module")
def data():
    """Two labels that a line separates, one that a circle does, one always and one never there."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((400, 3))
    ring = np.hypot(x[:, 0], x[:, 1]) < 0.9
    y = np.stack([x[:, 0] > 0.3, x[:, 1] + x[:, 2] > 0, ring, np.ones(400), np.zeros(400)], axis=1) > 0
    return (x[:200] * [1, 100, 0.01] + 5, y[:200]), (x[200:] * [1, 100, 0.01] + 5, y[200:])


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_scores_all_labels(name, data):
    train, test = data
    scores = create_baseline(name).fit(*train).scores(test[0])
    assert scores.shape == (200, 5)
    assert np.isfinite(scores).all()
    assert (scores[:, 3] > scores[:, :3].max(1) - 1e-9).all()  # always there
    assert (scores[:, 4] <= scores[:, :4].min(1)).all()
    again = create_baseline(name).fit(*train).scores(test[0])
    assert np.array_equal(again, scores)


def test_lines_need_no_neighbours_and_circles_do(data):
    train, test = data
    found = {
        name: [METRICS["map_macro"](scores[:, [label]], test[1][:, [label]]) for label in range(3)]
        for name, scores in ((name, create_baseline(name).fit(*train).scores(test[0])) for name in BASELINES)
    }
    for linear in ("svm", "logistic_regression"):
        assert min(found[linear][:2]) > 0.98
        assert found[linear][2] < found["knn"][2] - 0.2
    assert found["prior"] == pytest.approx(test[1][:, :3].mean(0))  # equal scores: precision is the frequency


def test_one_neighbour_is_the_neighbour():
    train = np.array([[0.0, 0], [1, 0], [5, 5]]), np.array([[1, 0], [1, 1], [0, 1]])
    scores = create_baseline("knn", k=1).fit(*train).scores(np.array([[0.1, 0], [4, 4]]))
    prior = train[1].mean(0)
    np.testing.assert_allclose(scores, (np.array([[1, 0], [0, 1]]) + 0.1 * prior) / 1.1)
    assert create_baseline("knn", k=99).fit(*train).scores(train[0]).shape == (3, 2)  # more than there are


def test_logistic_regression_is_scikit_learns(data):
    (x, y), (probe, _) = data
    scaled = (x - x.mean(0)) / x.std(0)
    expected = Solver(C=0.3, max_iter=500).fit(scaled, y[:, 2]).decision_function((probe - x.mean(0)) / x.std(0))
    found = create_baseline("logistic_regression", c=0.3).fit(x, y).scores(probe)[:, 2]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_bad_input_is_refused(data):
    with pytest.raises(UnknownName, match="Did you mean 'svm'"):
        create_baseline("svmm")
    with pytest.raises(ValueError, match="must be > 0, got 0"):
        create_baseline("svm", c=0)
    with pytest.raises(ValueError, match="k >= 1"):
        create_baseline("knn", k=0)
    with pytest.raises(ValueError, match=r"features must be \(N, 3\)"):
        create_baseline("prior").fit(*data[0]).scores(np.ones((2, 4)))
    with pytest.raises(ValueError, match="not a finite number"):
        create_baseline("prior").fit(np.array([[np.nan]]), np.array([[1]]))
    with pytest.raises(ValueError, match=r"got \(2, 1\), \(3, 1\)"):
        create_baseline("prior").fit(np.ones((2, 1)), np.ones((3, 1)))
