"""Calibration on scores with truth: lines through logits, and the score from which each label is present."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from reeltag.errors import StoreError
from reeltag.inference.label_lines import LINES
from reeltag.inference.label_thresholds import RULES, Goal
from reeltag.metrics import METRICS
from reeltag.metrics.pairs import pairs_of
from reeltag.store.calibration import Calibration, logits_of
from reeltag.store.scores import Scores

Array: TypeAlias = npt.NDArray[Any]
Method = Literal["none", "temperature", "platt"]
Rule = Literal["auto", "half", "shared", "label", "expected"]
DECISION_METRICS = ("f1_macro", "f1_micro", "f1_samples", "subset_accuracy", "hamming")
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Known:
    """What a calibration is fitted on: videos that the model covers.

    Attributes:
        logits: (N, L) float64.
        targets: (N, L) bool.
        known: (N, L) bool, False where the truth is unknown.
    """

    logits: Array
    targets: Array
    known: Array

    def rows(self, chosen: Array) -> Known:
        """Return the same of some videos."""
        return Known(self.logits[chosen], self.targets[chosen], self.known[chosen])


def known_of(scores: Scores) -> Known:
    """Return what a calibration can be fitted on.

    Raises:
        StoreError: no truth, fewer than two videos, or no label that is there on some and not on others.
    """
    if scores.targets is None:
        raise StoreError("these scores come without truth, so nothing can be calibrated on them; evaluate with labels")
    known = np.ones(scores.targets.shape, dtype=bool) if scores.ignore is None else ~scores.ignore
    covered = np.ones(len(scores.video_ids), dtype=bool) if scores.covered is None else scores.covered
    found = Known(logits_of(scores.probabilities()), scores.targets > 0, known).rows(covered)
    carried = (found.targets & found.known).sum(0)
    if len(found.logits) < 2 or not ((carried > 0) & (carried < found.known.sum(0))).any():
        raise StoreError(
            f"the split {scores.split!r} has {len(found.logits)} videos to calibrate on, and no label that some "
            "carry and others do not; calibrate on a split that has both"
        )
    return found


def fit_calibration(
    scores: Scores, *, method: Method = "temperature", rule: Rule = "auto", goal: Goal | None = None, seed: int = 0
) -> Calibration:
    """Fit a calibration on the scores of a split that the model was not trained on, usually `val`.

    Everything that is reported of it, and the choice of a rule by `auto`, comes from videos that it was not fitted on:
    five times, four fifths of them fit and the last is decided, and the decisions of all are measured together.

    Args:
        scores: with truth; videos that the model does not cover are left out.
        method: of the lines, see `reeltag.inference.label_lines`; `temperature` changes no ranking.
        rule: of the thresholds, see `reeltag.inference.label_thresholds`; `auto` takes the one with the best goal on
            videos that it was not fitted on, the simplest of equals (half, shared, expected, label).
        goal: what thresholds are chosen for; None is `f1_micro`. With a precision or a recall `auto` is `label`.
        seed: of the fifths.

    Returns:
        The calibration; `measured` holds `log_loss` and `ece` by `lines: <method>`, and the metrics of decisions by
        `thresholds: <rule>`.

    Raises:
        StoreError: scores without truth, or too few.
        ValueError: a method or a rule that there is not.
    """
    if method not in get_args(Method) or rule not in get_args(Rule):
        raise ValueError(f"method is one of {get_args(Method)} and rule one of {get_args(Rule)}, got {method}, {rule}")
    goal = Goal() if goal is None else goal
    found = known_of(scores)
    rules = [name for name in RULES if goal.is_f1 or name in ("half", "shared", "label")]
    lines, decided = _out_of_fold(found, method, rules, goal, seed)
    measured = {f"lines: {name}": _probability_values(found, values) for name, values in lines.items()}
    by_rule = {name: _decision_values(found, values) for name, values in decided.items()}
    measured |= {f"thresholds: {name}": values for name, values in by_rule.items()}
    if rule == "auto":
        chosen = max(rules, key=lambda name: by_rule[name][goal.name]) if goal.is_f1 else "label"
    elif rule in rules:
        chosen = rule
    else:
        raise ValueError(f"the rule {rule!r} is for a best F1 alone; with {goal} take {', '.join(rules)} or auto")
    slopes, shifts = LINES[method](found.logits, found.targets, found.known)
    probabilities = _sigmoid(slopes * found.logits + shifts)
    thresholds = RULES[chosen](probabilities, found.targets, found.known, goal)
    return Calibration(
        method=method,
        label_names=scores.label_names,
        slopes=slopes.tolist(),
        shifts=shifts.tolist(),
        thresholds=thresholds.tolist(),
        rule=chosen,
        goal=str(goal),
        weights_hash=scores.weights_hash,
        split=scores.split,
        manifest_hash=scores.manifest_hash,
        videos=len(found.logits),
        measured={name: _finite(values) for name, values in measured.items()},
    )


def calibrated_values(scores: Scores, calibration: Calibration) -> dict[str, float]:
    """Return `ece`, and the metrics of decisions at the thresholds, of scores with truth after a calibration.

    Raises:
        StoreError: scores without truth, or of other labels.
    """
    if scores.targets is None:
        raise StoreError("these scores come without truth, so nothing can be measured; evaluate with labels")
    if calibration.label_names != scores.label_names:
        raise StoreError("the calibration speaks of other labels than the scores; calibrate again")
    rows = slice(None) if scores.covered is None else scores.covered
    values, targets = calibration.apply(scores.probabilities())[rows], scores.targets[rows]
    ignore = None if scores.ignore is None else scores.ignore[rows]
    pairs = pairs_of(values, targets, ignore, kind="probability")
    bars = np.array(calibration.thresholds)
    found = {name: METRICS[name](pairs, targets, threshold=bars) for name in DECISION_METRICS}
    return {"ece": METRICS["ece"](pairs, targets), **found}


def _sigmoid(logits: Array) -> Array:
    return np.exp(-np.logaddexp(0, -logits))


def _folds(num_videos: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Yield (fitted, held out) bool (N,) of each fold; every video is held out once."""
    place = np.random.default_rng(seed).permutation(num_videos) % min(FOLDS, num_videos)
    for fold in range(min(FOLDS, num_videos)):
        yield place != fold, place == fold


def _out_of_fold(
    found: Known, method: Method, rules: Sequence[str], goal: Goal, seed: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return what lines and thresholds give on videos that they were not fitted on.

    Returns:
        Calibrated logits (N, L) by method, and, with the lines of `method`, decisions bool (N, L) by rule.
    """
    logits = {name: np.zeros_like(found.logits) for name in get_args(Method)}
    decided = {name: np.zeros(found.logits.shape, dtype=bool) for name in rules}
    for fitted, held_out in _folds(len(found.logits), seed):
        part = found.rows(fitted)
        for name, values in logits.items():
            slopes, shifts = LINES[name](part.logits, part.targets, part.known)
            values[held_out] = slopes * found.logits[held_out] + shifts
            if name == method:
                probabilities, unseen = _sigmoid(slopes * part.logits + shifts), _sigmoid(values[held_out])
                for rule, chosen in decided.items():
                    chosen[held_out] = unseen >= RULES[rule](probabilities, part.targets, part.known, goal)
    return logits, decided


def _probability_values(found: Known, logits: Array) -> dict[str, float]:
    loss = np.logaddexp(0, logits) - found.targets * logits
    ece = METRICS["ece"](pairs_of(_sigmoid(logits), found.targets, ~found.known, kind="probability"), found.targets)
    return {"log_loss": float(loss[found.known].mean()), "ece": ece}


def _decision_values(found: Known, decided: Array) -> dict[str, float]:
    pairs = pairs_of(decided.astype(np.float32), found.targets, ~found.known, kind="probability")
    return {name: METRICS[name](pairs, found.targets) for name in DECISION_METRICS}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items() if np.isfinite(value)}
