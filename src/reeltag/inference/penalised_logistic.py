"""Logistic regression drawn towards given weights: what calibration and stacking learn a label by, from few videos."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
_STEPS, _HALVINGS = 100, 30
_ENOUGH = 1e-10


def fit_logistic(features: Array, targets: Array, mean: Array, spread: Array) -> Array:
    """Return the (D,) weights of the largest posterior under a Gaussian, by damped Newton steps; the problem is convex.

    Args:
        features: (N, D); a constant is a column of ones.
        targets: (N,) bool.
        mean: (D,) of the Gaussian, where the search begins.
        spread: (D,) its deviations, > 0.
    """
    tight = 1 / spread**2

    def loss(weights: Array) -> float:
        line = features @ weights
        drawn = 0.5 * tight @ (weights - mean) ** 2
        return float(np.sum(np.logaddexp(0, line) - targets * line) + drawn)

    weights = mean.astype(np.float64)
    best = loss(weights)
    for _ in range(_STEPS):
        probability = np.exp(-np.logaddexp(0, -(features @ weights)))
        gradient = features.T @ (probability - targets) + tight * (weights - mean)
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features + np.diag(tight)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        for _ in range(_HALVINGS):
            value = loss(weights - size * step)
            if value <= best:
                break
            size /= 2
        else:
            return weights
        weights, gained, best = weights - size * step, best - value, value
        if gained <= _ENOUGH * max(1.0, abs(best)):
            return weights
    return weights
