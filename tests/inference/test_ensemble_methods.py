"""Greedy selection, ranks, stacking and SVM fusion: by hand, against scikit-learn, and where each must win."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from reeltag.errors import StoreError
from reeltag.inference.aligned import align
from reeltag.inference.ensemble import Ensemble
from reeltag.inference.ensemble_fit import fit_ensemble
from reeltag.inference.ensemble_weights import greedy_weights
from reeltag.inference.penalised_logistic import fit_logistic
from reeltag.inference.ranks import fit_ranks
from reeltag.inference.stacking import fit_svm
from reeltag.metrics import METRICS
from reeltag.store.scores import Scores

METHODS = ("mean", "weighted", "greedy", "rank", "stack", "svm")


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def drawn(num_videos, qualities, num_labels=6, seed=0, covered=1.0):
    """Members whose logits carry the truth as far as their quality by label (M, L) says; and some videos uncovered."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((num_videos, num_labels)) < 0.3).astype(np.uint8)
    members = []
    for place, quality in enumerate(np.broadcast_to(np.array(qualities)[..., None], (len(qualities), num_labels))
                                    if np.ndim(qualities) == 1 else np.array(qualities)):  # fmt: skip
        logits = quality * (2 * targets - 1.0) + generator.normal(size=targets.shape) - 1
        seen = generator.random(num_videos) < covered
        seen[:2] = True
        values = np.where(seen[:, None], sigmoid(logits), 0.3).astype(np.float32)
        members.append(
            (
                f"m{place}",
                Scores(
                    [f"v{row}" for row in range(num_videos)],
                    values,
                    [f"l{label}" for label in range(num_labels)],
                    "probability",
                    targets,
                    split="val",
                    weights_hash=f"{place}" * 8,
                    covered=None if seen.all() else seen,
                ),
            )
        )
    return members


def value(ensemble, members, metric="map_macro"):
    fused = ensemble.apply(members)
    return METRICS[metric](fused.values, fused.targets)


def test_greedy_adds_the_best_member_again_and_again():
    asked = []

    def measure(weights):
        asked.append(tuple(weights.tolist()))
        return -float(np.sum((weights / weights.sum() - np.array([0.6, 0.4, 0.0])) ** 2))

    weights, best = greedy_weights(measure, 3)
    assert weights.tolist() == [1, 2 / 3, 0]  # three times the first, twice the second
    assert best == pytest.approx(0, abs=1e-12)
    assert asked[:3] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert asked[3:6] == [(2, 0, 0), (1, 1, 0), (1, 0, 1)]


def test_greedy_takes_all_alike_where_the_metric_is_not_defined(tmp_path):
    nobody = [(name, _with(own, np.zeros_like(own.targets))) for name, own in drawn(20, [1.0, 0.5])]
    made = fit_ensemble(nobody, method="greedy")  # no label has a positive
    assert [member.weight for member in made.members] == [1, 1]
    made.write(tmp_path / "e.json")


def test_greedy_leaves_out_members_that_know_nothing():
    members = drawn(600, [1.0, 0.9, 0.0, 0.0, 0.0])
    made = fit_ensemble(members, method="greedy")
    assert sum(member.weight for member in made.members[2:]) < 0.35 * sum(member.weight for member in made.members[:2])
    assert made.fitted["map_macro"] > made.fitted["mean"] + 0.02
    assert made.fitted["map_macro"] >= max(value for name, value in made.fitted.items() if name.startswith("alone"))


def test_ranks_are_the_shares_of_the_fit_below_a_score():
    values = np.linspace(0.02, 0.98, 49).astype(np.float32)[None, :, None]
    ranks = fit_ranks(values, np.ones((1, 49), dtype=bool))
    assert ranks.shape == (1, 1)
    found = ranks.of(values)[0, :, 0]
    assert found == pytest.approx(np.linspace(0.5, 49.5, 49) / 50, abs=0.006)  # the share of 49 videos below, about
    beyond = ranks.of(np.array([0.001, 0.01, 0.985, 0.995])[None, :, None])[0, :, 0]
    assert 0 < beyond[0] < beyond[1] < found[0]
    assert found[-1] < beyond[2] < beyond[3] < 1


def test_the_mean_of_ranks_does_not_ask_on_which_scale_members_speak():
    members = drawn(400, [1.0, 1.0, 0.2])
    loud = [members[0], (members[1][0], _scaled(members[1][1], 0.05)), members[2]]  # hardly differing probabilities
    plain, odd = fit_ensemble(members, method="rank"), fit_ensemble(loud, method="rank")
    assert odd.apply(loud).values == pytest.approx(plain.apply(members).values, abs=2e-3)
    mean = fit_ensemble(loud, method="mean")
    assert value(odd, loud) > value(mean, loud) + 0.02
    one = [(name, own.rows([own.video_ids[7]])) for name, own in loud]  # a single video has its rank too
    assert odd.apply(one).values[0] == pytest.approx(odd.apply(loud).values[7], abs=1e-6)


def _scaled(scores, slope):
    logits = np.log(scores.values / (1 - scores.values))
    return Scores(
        scores.video_ids,
        sigmoid(slope * logits - 3).astype(np.float32),
        scores.label_names,
        "probability",
        scores.targets,
        split="val",
        weights_hash=scores.weights_hash,
    )


def test_penalised_regression_equals_scikit_learns_ridge():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 3))
    targets = generator.random(300) < sigmoid(features @ [1.0, -2.0, 0.5])
    spread = np.full(3, 0.7)
    found = fit_logistic(features, targets, np.zeros(3), spread)
    reference = LogisticRegression(C=0.49, fit_intercept=False, tol=1e-10).fit(features, targets)
    assert found == pytest.approx(reference.coef_[0], rel=1e-5)
    moved = fit_logistic(features, targets, np.array([1.0, -2.0, 0.5]), np.full(3, 1e-4))
    assert moved == pytest.approx([1.0, -2.0, 0.5], abs=1e-3)
    apart = fit_logistic(np.array([[-1.0], [1.0]]), np.array([False, True]), np.zeros(1), np.full(1, 100.0))
    assert np.isfinite(apart).all()  # separable: only the Gaussian holds it


def test_a_stack_knows_which_member_knows_which_label():
    qualities = [[1.5, 1.5, 1.5, 0, 0, 0], [0, 0, 0, 1.5, 1.5, 1.5]]
    fitted, tested = drawn(800, qualities), drawn(800, qualities, seed=1)
    for method in ("stack", "svm"):
        made = fit_ensemble(fitted, method=method)
        assert made.stack is not None
        weights = np.array(made.stack.weights)
        assert (weights[0, :3] > 4 * np.abs(weights[1, :3])).all()
        assert (weights[1, 3:] > 4 * np.abs(weights[0, 3:])).all()
        best = max(value(fit_ensemble(fitted, method=other), tested) for other in ("mean", "weighted", "greedy"))
        assert value(made, tested) > best + 0.03
        assert made.fitted["held out"] == pytest.approx(value(made, tested), abs=0.03)
        assert METRICS["ece"](made.apply(tested).values, tested[0][1].targets) < 0.04


def test_a_stack_of_many_videos_is_each_labels_regression():
    members = drawn(20_000, [[1.0, 0.5], [0.3, 1.0]], num_labels=2)
    made = fit_ensemble(members, method="stack").stack
    logits = np.stack([np.log(own.values.astype(float) / (1 - own.values.astype(float))) for _, own in members])
    for label in range(2):
        features = (logits[:, :, label] - logits[:, :, label].mean(1, keepdims=True)).T
        reference = LogisticRegression(C=np.inf, tol=1e-8).fit(features, members[0][1].targets[:, label])
        assert [row[label] for row in made.weights] == pytest.approx(reference.coef_[0].tolist(), rel=0.02)
        assert made.base[label] == pytest.approx(reference.intercept_[0], abs=0.02)


def test_the_svm_is_scikit_learns_with_a_line_on_top():
    members = drawn(500, [[1.0, 0.4], [0.5, 0.9]], num_labels=2)
    aligned = align(members)
    made = fit_svm(aligned)
    logits = np.log(aligned.values.astype(float) / (1 - aligned.values.astype(float)))
    for label in range(2):
        features = (logits[:, :, label] - logits[:, :, label].mean(1, keepdims=True)).T
        scaled = (features - features.mean(0)) / features.std(0)
        machine = LinearSVC(C=1.0, random_state=0, dual="auto", max_iter=2000).fit(scaled, aligned.targets[:, label])
        wanted = machine.coef_[0] / features.std(0)
        found = np.array([row[label] for row in made.weights])
        assert found / np.linalg.norm(found) == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_absent_members_rare_labels_and_comes_back_from_its_file(method, tmp_path):
    members = drawn(120, [1.0, 0.6, 0.3], covered=0.7)
    rare = members[0][1].targets.copy()
    rare[:, 4] = 0
    rare[:, 5] = (np.arange(120) < 3) | rare[:, 4]
    members = [(name, _with(own, rare)) for name, own in members]
    made = fit_ensemble(members, method=method)
    fused = made.apply(members)
    assert np.isfinite(fused.values).all()
    assert fused.values[:, 4].mean() < 0.5
    nobody = ~np.any([own.covered for _, own in members], axis=0)
    assert nobody.any()
    assert fused.values[nobody] == pytest.approx(np.tile(made.label_shares, (nobody.sum(), 1)), abs=1e-6)
    made.write(tmp_path / "e.json")
    again = Ensemble.read(tmp_path / "e.json")
    assert again == made
    assert np.array_equal(again.apply(members).values, fused.values)
    alone = made.apply(members[:1])  # the others are missing altogether
    assert METRICS["map_macro"](alone.values, alone.targets) > 0.4
    single = made.apply([(name, own.rows([own.video_ids[0]])) for name, own in members])
    assert single.values[0] == pytest.approx(fused.values[0], abs=1e-6)
    if method in ("weighted", "greedy", "stack", "svm"):
        assert made.fitted["held out"] < made.fitted["map_macro"] + 0.02
    else:
        assert "held out" not in made.fitted


def _with(scores, targets):
    return Scores(
        scores.video_ids,
        scores.values,
        scores.label_names,
        "probability",
        targets,
        split="val",
        weights_hash=scores.weights_hash,
        covered=scores.covered,
    )


@pytest.mark.parametrize("method", ["weighted", "greedy", "stack", "svm"])
def test_what_learns_needs_truth(method):
    blind = [(name, _with(own, None)) for name, own in drawn(20, [1.0, 0.5])]
    with pytest.raises(StoreError, match="no truth, so no weights can be fitted"):
        fit_ensemble(blind, method=method)
    assert fit_ensemble(blind, method="rank").apply(blind).values.mean() == pytest.approx(0.5, abs=0.02)


def test_an_of_that_is_not_the_methods_to_choose_is_refused():
    members = drawn(20, [1.0, 0.5])
    for method, of in (("rank", "logits"), ("stack", "evidence"), ("mean", "ranks")):
        with pytest.raises(ValueError, match="`of` is probabilities, logits or evidence"):
            fit_ensemble(members, method=method, of=of)
