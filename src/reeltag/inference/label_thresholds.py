"""From which probability a label counts as present: one half, one for all labels, one a label, or half the best F1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from reeltag.errors import ReeltagError

Array: TypeAlias = npt.NDArray[Any]
GoalName = Literal["f1_micro", "f1_macro", "precision", "recall"]
FEW = 10  # positives: a label with fewer takes what all labels together say
_CANDIDATES = 200
_ROUNDS = 30


@dataclass(frozen=True)
class Goal:
    """What thresholds are looked for.

    `f1_micro`, of all pairs of a video and a label together: a label that the scores do not tell apart is then hardly
    ever said. `f1_macro`, the mean over labels, is larger when such a label is said of most videos, which a reader of
    tags will not like. Or the most recall at a least precision, or the most precision at a least recall, of each label.

    Attributes:
        name: one of the four.
        least: of precision or recall, in (0, 1]; 0 for the others.
    """

    name: GoalName = "f1_micro"
    least: float = 0.0

    @property
    def is_f1(self) -> bool:
        """Whether it is a best F1."""
        return self.name in ("f1_micro", "f1_macro")

    def __str__(self) -> str:
        return self.name if self.is_f1 else f"{self.name}={self.least:g}"

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read `f1_micro`, `f1_macro`, `precision=0.9` or `recall=0.9`; ReeltagError says what is allowed."""
        name, equals, value = text.partition("=")
        if name in get_args(GoalName):
            made = cls(cast(GoalName, name))
            if made.is_f1 and not equals:
                return made
            try:
                least = float(value)
            except ValueError:
                least = 0.0
            if not made.is_f1 and 0 < least <= 1:
                return cls(made.name, least)
        raise ReeltagError(
            f"--goal {text!r} is none of f1_micro, f1_macro, precision=P, recall=R, with a number above 0 and up to 1"
        )


def half(probabilities: Array, targets: Array, known: Array, goal: Goal) -> Array:
    """Return 0.5 for every label: the fewest wrong decisions, if the probabilities are right."""
    return np.full(probabilities.shape[1], 0.5)


def shared(probabilities: Array, targets: Array, known: Array, goal: Goal) -> Array:
    """Return the one threshold that is best for all labels together.

    For `f1_macro`, the best of 200 quantiles of the probabilities; else the best cut of all pairs in one list.

    Args:
        probabilities: (N, L) in [0, 1].
        targets: (N, L) bool.
        known: (N, L) bool, False where the truth is unknown.
        goal: see `Goal`.

    Returns:
        (L,) in [0, 1].
    """
    given, labels = probabilities[known], probabilities.shape[1]
    if goal.name != "f1_macro":
        return np.full(labels, Cuts(given, targets[known]).threshold(goal))
    candidates = np.unique(np.quantile(given, np.linspace(0, 1, _CANDIDATES)))
    candidates = (candidates[1:] + candidates[:-1]) / 2 if len(candidates) > 1 else candidates
    total = np.zeros(len(candidates))
    for column in range(labels):
        seen = known[:, column]
        scores, positive = np.sort(probabilities[seen, column]), probabilities[seen & targets[:, column], column]
        decided = len(scores) - np.searchsorted(scores, candidates)
        found = len(positive) - np.searchsorted(np.sort(positive), candidates)
        total += 2 * found / np.maximum(decided + len(positive), 1)
    return np.full(labels, candidates[int(np.argmax(total))])


def label(probabilities: Array, targets: Array, known: Array, goal: Goal) -> Array:
    """Return each label's own best threshold; with fewer than `FEW` positives or negatives, the shared one.

    It lies in the middle between the last score that counts as present and the next one. For `f1_micro` the labels
    are cut together: with F the F1 of all pairs, a label's best cut has the most of (found - F / 2 * decided), and F
    follows from the cuts, again and again (Dinkelbach, On nonlinear fractional programming, 1967). A label without a
    cut that meets the goal lies between its largest score and 1. Arguments and result as of `shared`.
    """
    bars = shared(probabilities, targets, known, goal)
    cuts: dict[int, Cuts] = {}
    for column in range(probabilities.shape[1]):
        seen = known[:, column]
        positive = targets[seen, column]
        if min(positive.sum(), (~positive).sum()) >= FEW:
            cuts[column] = Cuts(probabilities[seen, column], positive)
    if goal.name == "f1_micro":
        rest = [column for column in range(len(bars)) if column not in cuts]
        decided = known[:, rest] & (probabilities[:, rest] >= bars[rest])
        fixed = (int((decided & targets[:, rest]).sum()), int(decided.sum() + (targets & known)[:, rest].sum()))
        chosen = _together(list(cuts.values()), fixed)
        bars[list(cuts)] = [cut.middle(at) for cut, at in zip(cuts.values(), chosen, strict=True)]
    else:
        for column, cut in cuts.items():
            bars[column] = cut.threshold(goal)
    return bars


def expected(probabilities: Array, targets: Array, known: Array, goal: Goal) -> Array:
    """Return the thresholds of the largest F1 that the probabilities themselves promise; no truth is asked.

    Paper: Lipton, Elkan, Naryanaswamy. Optimal Thresholding of Classifiers to Maximize F1 Measure. ECML 2014,
    arXiv:1402.1892: where probabilities are right, the best threshold is half of the best F1, a label's own for
    `f1_macro`, that of all pairs for `f1_micro`. This F1 of a cut after k scores is taken as
    2 * (sum of the k largest) / (k + sum of all). All videos speak, not the positives alone, so that it is steady for
    rare labels and right as far as the calibration is. Arguments and result as of `shared`.
    """
    labels = probabilities.shape[1]
    if goal.name != "f1_macro":
        return np.full(labels, _promised(probabilities[known]) / 2)
    return np.array([_promised(probabilities[known[:, column], column]) / 2 for column in range(labels)])


def _promised(scores: Array) -> float:
    if not len(scores):
        return 1.0
    falling = -np.sort(-scores)
    return float((2 * np.cumsum(falling) / (np.arange(1, len(falling) + 1) + falling.sum())).max())


class Cuts:
    """The places at which a list of scores can be cut into present and absent; equal scores stay together.

    Args:
        scores: (N,), N >= 1.
        positive: (N,) bool.

    Attributes:
        decided: (C,) scores above each cut, from 0 on.
        found: (C,) positives among them.
    """

    def __init__(self, scores: Array, positive: Array) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True]) + 1
        self.decided = np.r_[0, ends]
        self.found = np.r_[0, np.cumsum(positive[order])[ends - 1]]
        self._edges = np.r_[1.0, ranked[ends - 1], 0.0]  # a cut lies between two of them

    def middle(self, cut: int) -> float:
        """Return the threshold of a cut."""
        return float((self._edges[cut] + self._edges[cut + 1]) / 2)

    def threshold(self, goal: Goal) -> float:
        """Return the threshold of the best cut for a goal."""
        if goal.is_f1:
            return self.middle(int(np.argmax(2 * self.found / (self.decided + max(self.found[-1], 1)))))
        if goal.name == "precision":
            return self.middle(int(np.flatnonzero(self.found >= goal.least * self.decided)[-1]))
        enough = self.found >= goal.least * self.found[-1]
        return self.middle(int(np.argmax(np.where(enough, self.found / np.maximum(self.decided, 1), -1))))


def _together(cuts: list[Cuts], fixed: tuple[int, int]) -> list[int]:
    """Return the cut of each list with which the F1 of all is largest.

    Args:
        cuts: of L lists.
        fixed: what other pairs add: found, and decided + positive.
    """
    if not cuts:
        return []
    rate = 0.5
    for _ in range(_ROUNDS):
        chosen = [int(np.argmax(cut.found - rate * cut.decided)) for cut in cuts]
        found = fixed[0] + sum(int(cut.found[at]) for cut, at in zip(cuts, chosen, strict=True))
        weight = fixed[1] + sum(int(cut.decided[at] + cut.found[-1]) for cut, at in zip(cuts, chosen, strict=True))
        if abs(found / weight - rate) < 1e-12:
            break
        rate = found / weight  # half of F1 = 2 * found / weight
    return chosen


RULES: Mapping[str, Callable[[Array, Array, Array, Goal], Array]] = {  # the simplest first
    "half": half,
    "shared": shared,
    "expected": expected,
    "label": label,
}
