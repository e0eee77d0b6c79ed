"""Weights of members with the largest metric: by steps along one weight at a time, or by adding members one by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reeltag.inference.aligned import Array

STEPS = (0.5, 0.25, 0.125, 0.0625)
ROUNDS = 50
_GAIN = 1e-9  # less is no gain but the rounding of sums


def search_weights(measure: Callable[[Array], float], start: Array) -> tuple[Array, float]:
    """Return weights (M,), at least 0, from which no step along one of them gains, and their value.

    For each step of `STEPS`, from large to small, the members are visited in order again and again; a weight is raised
    or lowered by the step where that gains, until a whole round gains nothing. It draws nothing: the same scores give
    the same weights. Weights are scaled so that the largest is 1.

    Args:
        measure: from weights to what is to be large.
        start: (M,), at least 0 and not all 0.
    """
    weights, best = start.astype(float), measure(start)
    for step in STEPS:
        gained = True
        while gained:
            gained = False
            for index in range(len(weights)):
                for change in (step, -step):
                    tried = weights.copy()
                    tried[index] = max(0.0, tried[index] + change)
                    if tried[index] == weights[index] or not tried.any():
                        continue
                    value = measure(tried)
                    if value > best + _GAIN:
                        weights, best, gained = tried, value, True
                        break
    return weights / weights.max(), best


def greedy_weights(measure: Callable[[Array], float], num_members: int) -> tuple[Array, float]:
    """Return weights (M,) from adding members one by one, again and again the same one too, and their value.

    Paper: Caruana, Niculescu-Mizil, Crew, Ksikes. Ensemble Selection from Libraries of Models. ICML 2004, section 2:
    it begins with the best member alone, and each round adds the one with which the mean of all that were added is
    best. Of `ROUNDS` rounds the first with the largest value is kept. A member that does not help gets the weight 0,
    which is why it is the method for many members. Departure: one run over all videos, no bags of members. Weights are
    scaled so that the largest is 1.

    Args:
        measure: from weights to what is to be large.
        num_members: M.
    """
    counts = np.zeros(num_members)
    best, kept = -np.inf, np.ones(num_members)  # all alike where the metric is not defined
    for _ in range(ROUNDS):
        values = [measure(counts + one) for one in np.eye(num_members)]
        counts = counts + np.eye(num_members)[int(np.argmax(values))]
        if max(values) > best + _GAIN:
            best, kept = max(values), counts
    return kept / kept.max(), best
