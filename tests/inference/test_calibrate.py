"""Calibration: lines against scikit-learn's, thresholds against brute force, and a fit that changes what it should."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from reeltag.errors import ReeltagError, StoreError
from reeltag.inference.calibrate import calibrated_values, fit_calibration
from reeltag.inference.label_lines import LINES
from reeltag.inference.label_thresholds import RULES, Goal
from reeltag.metrics import METRICS
from reeltag.store.calibration import Calibration, logits_of
from reeltag.store.scores import Scores


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def drawn(num_videos, slopes, shifts, seed=0):
    """Logits (N, L), and truth that carries a label with the probability sigmoid(slope * logit + shift)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, (num_videos, len(slopes)))
    return logits, generator.random(logits.shape) < sigmoid(np.array(slopes) * logits + np.array(shifts))


def scores_of(logits, targets, **more):
    names = [f"label{label}" for label in range(logits.shape[1])]
    return Scores(
        [f"v{row}" for row in range(len(logits))],
        logits.astype(np.float32),
        names,
        "logit",
        targets.astype(np.uint8),
        **more,
    )


def everything(targets):
    return np.ones(targets.shape, dtype=bool)


def test_temperature_is_the_slope_of_a_regression_without_a_shift():
    logits, targets = drawn(2000, [0.4] * 5, [0.0] * 5)
    slopes, shifts = LINES["temperature"](logits, targets, everything(targets))
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits.reshape(-1, 1), targets.ravel())
    assert slopes == pytest.approx(np.full(5, reference.coef_[0, 0]), rel=1e-4)
    assert slopes[0] == pytest.approx(0.4, rel=0.05)
    assert not shifts.any()


def test_platt_with_many_videos_is_each_labels_own_regression():
    wanted, shifts = [0.4, 1.0, 2.0], [-1.0, 0.0, 1.5]
    logits, targets = drawn(40_000, wanted, shifts)
    found = LINES["platt"](logits, targets, everything(targets))
    for label in range(3):
        reference = LogisticRegression(C=np.inf, tol=1e-8).fit(logits[:, [label]], targets[:, label])
        assert found[0][label] == pytest.approx(reference.coef_[0, 0], rel=0.01)
        assert found[1][label] == pytest.approx(reference.intercept_[0], abs=0.02)


def test_platt_of_a_label_is_the_peak_of_its_posterior_and_leaves_unknown_pairs_out():
    logits, targets = drawn(60, [0.5, 0.5, 1.0], [0, -1, 0], seed=3)
    known = np.random.default_rng(1).random(targets.shape) < 0.7
    slopes, shifts = LINES["platt"](logits, targets, known)
    moved = LINES["platt"](np.where(known, logits, 50), np.where(known, targets, ~targets), known)
    assert np.array_equal(moved, (slopes, shifts))
    everyone = LogisticRegression(C=1e8, tol=1e-10).fit(logits[known].reshape(-1, 1), targets[known])
    common = everyone.coef_[0, 0], everyone.intercept_[0]

    def posterior(label, slope, shift):
        line = slope * logits[known[:, label], label] + shift
        fit = np.sum(targets[known[:, label], label] * line - np.logaddexp(0, line))
        return fit - ((slope - common[0]) / common[0] / 0.5) ** 2 / 2 - (shift - common[1]) ** 2 / 2

    for label in range(3):
        peak = posterior(label, slopes[label], shifts[label])
        for a, b in itertools.product((-0.02, 0, 0.02), repeat=2):
            assert (a, b) == (0, 0) or posterior(label, slopes[label] + a, shifts[label] + b) < peak


def test_platt_of_a_label_that_nobody_carries_is_finite_and_near_the_common_line():
    logits, targets = drawn(200, [1.0] * 4, [0.0] * 4)
    targets[:, 2], targets[:, 3] = (
        False,
        ~(logits[:, 3] > -1),
    )  # nobody carries one; the other is there when it seems not
    slopes, shifts = LINES["platt"](logits, targets, everything(targets))
    assert np.isfinite(slopes).all()
    assert np.isfinite(shifts).all()
    assert (slopes > 0).all()
    assert slopes[3] == pytest.approx(1e-3)
    assert sigmoid(slopes[2] * logits[:, 2] + shifts[2]).mean() < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_label_thresholds_have_the_best_macro_f1_of_the_per_label_table(seed):
    logits, targets = drawn(80, [1.0, 0.3, 2.0], [0, 0, -1], seed=seed)
    values = np.round(sigmoid(logits), 1)  # with ties
    bars = RULES["label"](values, targets, everything(targets), Goal("f1_macro"))
    for label in range(3):
        column, truth = values[:, [label]], targets[:, [label]].astype(float)
        every = [METRICS["f1_macro"](column, truth, threshold=float(t)) for t in np.linspace(0, 1, 101)]
        assert METRICS["f1_macro"](column, truth, threshold=float(bars[label])) == pytest.approx(max(every))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_label_thresholds_have_the_best_micro_f1_of_all_triples(seed):
    logits, targets = drawn(40, [1.0, 0.1, 1.5], [1.0, 0.0, 1.5], seed=seed)
    values, truth = sigmoid(logits), targets.astype(float)
    assert min(targets.sum(0).min(), (~targets).sum(0).min()) >= 10
    bars, common = (RULES[rule](values, targets, everything(targets), Goal()) for rule in ("label", "shared"))
    columns = []
    for label in range(3):
        edges = np.r_[0, np.sort(values[:, label]), 1]
        decided = values[:, label] >= ((edges[1:] + edges[:-1]) / 2)[:, None]  # (C, N)
        columns.append(np.stack([(decided & targets[:, label]).sum(1), decided.sum(1)]))
    total = columns[0][:, :, None, None] + columns[1][:, None, :, None] + columns[2][:, None, None, :]
    best = (2 * total[0] / (total[1] + targets.sum())).max()
    assert METRICS["f1_micro"](values, truth, threshold=bars) == pytest.approx(best)
    assert METRICS["f1_micro"](values, truth, threshold=common) < best


def test_a_label_that_scores_do_not_tell_apart_is_hardly_ever_said_for_micro_and_nearly_always_for_macro():
    logits, targets = drawn(400, [3.0, 3.0, 0.0], [0, 0, -1.5])
    values, known = sigmoid(logits), everything(targets)
    micro, macro = (RULES["label"](values, targets, known, Goal(name)) for name in ("f1_micro", "f1_macro"))
    assert (values[:, 2] >= micro[2]).mean() < 0.05
    assert (values[:, 2] >= macro[2]).mean() > 0.6


@pytest.mark.parametrize(("name", "least"), [("precision", 0.8), ("recall", 0.9)])
def test_thresholds_meet_a_precision_or_a_recall_and_keep_the_most_of_the_other(name, least):
    logits, targets = drawn(300, [1.5, 1.0], [0.0, 0.5])
    values = sigmoid(logits)
    bars = RULES["label"](values, targets, everything(targets), Goal(name, least))
    for label in range(2):
        truth, column = targets[:, label], values[:, label]

        def both(threshold, truth=truth, column=column):
            decided = column >= threshold
            return (decided & truth).sum() / max(decided.sum(), 1), (decided & truth).sum() / truth.sum()

        mine = dict(zip(("precision", "recall"), both(bars[label]), strict=True))
        assert mine[name] >= least
        other = "recall" if name == "precision" else "precision"
        every = [dict(zip(("precision", "recall"), both(t), strict=True)) for t in np.r_[column, 0]]
        assert mine[other] == pytest.approx(max(one[other] for one in every if one[name] >= least))


def test_a_precision_that_no_cut_has_leaves_the_label_unsaid():
    values = np.linspace(0.1, 0.9, 40)[:, None]
    targets = np.arange(40)[:, None] < 20  # the highest scores are all wrong
    bars = RULES["label"](values, targets, everything(targets), Goal("precision", 0.95))
    assert bars[0] == pytest.approx((0.9 + 1) / 2)


def test_expected_threshold_is_half_of_the_best_f1_that_probabilities_promise():
    values = np.random.default_rng(0).random((2000, 1))
    bar = RULES["expected"](values, values < 2, values < 2, Goal("f1_macro"))[0]
    every = [2 * values[values >= t].sum() / ((values >= t).sum() + values.sum()) for t in np.linspace(0, 1, 1001)]
    assert bar == pytest.approx(max(every) / 2, abs=1e-4)
    assert every[round(1000 * bar)] == pytest.approx(max(every), abs=1e-4)  # and the threshold reaches it


def test_few_positives_take_the_shared_threshold():
    logits, targets = drawn(200, [1.0, 1.0], [0, 0])
    targets[:, 1] = False
    targets[:9, 1] = True
    values = sigmoid(logits)
    for goal in (Goal("f1_micro"), Goal("f1_macro"), Goal("precision", 0.7)):
        bars, common = (RULES[rule](values, targets, everything(targets), goal) for rule in ("label", "shared"))
        assert bars[1] == common[1]


def test_temperature_changes_no_ranking_and_mends_what_is_too_sure():
    logits, targets = drawn(600, [1.0] * 6, [0.0] * 6)
    sure = scores_of(3 * logits, targets)
    made = fit_calibration(sure)
    assert 1 / made.slopes[0] == pytest.approx(3, rel=0.1)
    before, after = sure.probabilities(), made.apply(sure.probabilities())
    for name in ("map_macro", "map_samples", "gap"):
        assert METRICS[name](after, targets) == pytest.approx(METRICS[name](before, targets), abs=1e-9)
    assert METRICS["ece"](after, targets) < 0.4 * METRICS["ece"](before, targets)
    assert made.measured["lines: temperature"]["log_loss"] < made.measured["lines: none"]["log_loss"]


def test_what_is_reported_comes_from_videos_that_were_not_fitted_on():
    logits, targets = np.random.default_rng(0).normal(size=(60, 30)), np.random.default_rng(1).random((60, 30)) < 0.3
    made = fit_calibration(scores_of(logits, targets), rule="label", goal=Goal("f1_macro"))
    fitted = calibrated_values(scores_of(logits, targets), made)
    assert made.measured["thresholds: label"]["f1_macro"] < fitted["f1_macro"] - 0.03  # noise, learned by heart
    assert made == fit_calibration(scores_of(logits, targets), rule="label", goal=Goal("f1_macro"))
    assert made != fit_calibration(scores_of(logits, targets), rule="label", goal=Goal("f1_macro"), method="platt")


def test_auto_takes_the_rule_with_the_best_goal():
    logits, targets = drawn(900, [1.0, 1.0, 1.0], [-3.0, 0.0, 3.0])
    for name in ("f1_micro", "f1_macro"):
        made = fit_calibration(scores_of(logits, targets), goal=Goal(name))
        by_rule = {key: row[name] for key, row in made.measured.items() if key.startswith("thresholds")}
        assert by_rule[f"thresholds: {made.rule}"] == max(by_rule.values())
        assert made.rule in ("label", "expected") or name == "f1_micro"
        assert made.goal == name


def test_videos_that_are_not_covered_and_pairs_that_are_not_known_are_left_out():
    logits, targets = drawn(120, [1.0, 0.5], [0.0, 0.5])
    covered = np.arange(120) % 3 > 0
    ignore = np.random.default_rng(0).random(targets.shape) < 0.2
    made = fit_calibration(scores_of(logits, targets, covered=covered, ignore=ignore), method="platt")
    other = np.where(covered[:, None] & ~ignore, logits, -7.0), np.where(covered[:, None] & ~ignore, targets, True)
    assert made == fit_calibration(scores_of(*other, covered=covered, ignore=ignore), method="platt")
    assert made.videos == 80


def test_scores_that_cannot_be_calibrated_on_are_refused():
    logits, targets = drawn(10, [1.0], [0.0])
    with pytest.raises(StoreError, match="without truth"):
        fit_calibration(Scores(["a"], np.zeros((1, 1), np.float32), ["x"], "logit"))
    with pytest.raises(StoreError, match=r"has 1 videos to calibrate on"):
        fit_calibration(scores_of(logits[:1], targets[:1]))
    with pytest.raises(StoreError, match=r"no label that some carry and others do not"):
        fit_calibration(scores_of(logits, np.ones_like(targets)))
    for wrong in ("f1", "precision", "precision=0", "recall=1.1", "f1_micro=3", "recall=x"):
        with pytest.raises(ReeltagError, match=r"none of f1_micro, f1_macro, precision=P, recall=R"):
            Goal.parse(wrong)
    assert Goal.parse("recall=0.9") == Goal("recall", 0.9)


def test_a_calibration_survives_its_files_and_an_edit(tmp_path):
    logits, targets = drawn(100, [1.0, 0.5], [0.0, 0.5])
    made = fit_calibration(scores_of(logits, targets), method="platt")
    assert Calibration.read(tmp_path, made.label_names) is None
    made.write(tmp_path)
    assert Calibration.read(tmp_path, made.label_names) == made
    (tmp_path / "thresholds.json").write_text('{"label1": 0.125}')
    edited = Calibration.read(tmp_path, made.label_names)
    assert edited is not None
    assert edited.thresholds == [0.5, 0.125]
    assert edited.slopes == made.slopes
    with pytest.raises(StoreError, match="other labels"):
        Calibration.read(tmp_path, ["label1", "label0"])
    (tmp_path / "thresholds.json").write_text('{"label1": 1.5}')
    with pytest.raises(StoreError, match=r"'label1' the threshold 1.5"):
        Calibration.read(tmp_path, made.label_names)
    (tmp_path / "thresholds.json").unlink()
    (tmp_path / "calibration.json").write_text('{"method": "magic"}')
    with pytest.raises(StoreError, match=r"no calibration \(method"):
        Calibration.read(tmp_path, made.label_names)


def test_probabilities_at_the_ends_stay_finite_and_in_order():
    ends = np.array([0.0, 1e-20, 1e-9, 0.5, 1 - 2.0**-20, 1.0], dtype=np.float32)
    assert np.isfinite(logits_of(ends)).all()
    calibration = Calibration(label_names=["a"], slopes=[2.0], shifts=[0.1], thresholds=[0.5])
    after = calibration.apply(ends[:, None])[:, 0]
    assert (np.diff(after) >= 0).all()
    assert after[0] >= 0
    assert after[-1] <= 1
    assert after[3] == pytest.approx(sigmoid(0.1))
