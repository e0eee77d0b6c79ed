"""Lines through the logits of labels that make probabilities agree with frequencies: none, temperature, Platt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Array: TypeAlias = npt.NDArray[Any]
Lines = tuple[Array, Array]
_FARTHEST = 6.0  # of the logarithm of a slope: temperatures from 1/400 to 400
_LEAST_SLOPE = 1e-3  # a label whose scores say nothing, or the contrary, gets nearly one probability for all videos
_SLOPE_SPREAD, _SHIFT_SPREAD = 0.5, 1.0  # of a label's line about the common one, chosen on `reeltag bench calibration`
_STEPS = 50
_ENOUGH = 1e-9


def no_lines(logits: Array, targets: Array, known: Array) -> Lines:
    """Return slopes 1 and shifts 0. Arguments as in `temperature`."""
    return np.ones(logits.shape[1]), np.zeros(logits.shape[1])


def temperature(logits: Array, targets: Array, known: Array) -> Lines:
    """Return one slope 1 / T for all labels, that with the least log loss.

    Paper: Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017, arXiv:1706.04599, section
    4.2; there for one softmax, here for one sigmoid a label.

    Args:
        logits: (N, L).
        targets: (N, L) bool.
        known: (N, L) bool, False where the truth is unknown.

    Returns:
        (L,) slopes > 0 and (L,) shifts.
    """
    given, truth = logits[known], targets[known]

    def loss(power: float) -> float:
        scaled = np.exp(power) * given
        return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))

    power = minimize_scalar(loss, bounds=(-_FARTHEST, _FARTHEST), method="bounded", options={"xatol": 1e-6}).x
    return np.full(logits.shape[1], float(np.exp(power))), np.zeros(logits.shape[1])


def platt(logits: Array, targets: Array, known: Array) -> Lines:
    """Return a line for each label, that with the least log loss, drawn towards one line for all.

    Paper: Platt. Probabilistic Outputs for Support Vector Machines. 1999. Departure: his targets are moved a little
    inwards so that few videos do not make a line steep. Here a Gaussian about the common line of all labels does this:
    of deviation 1 for the shift, and of half the common slope for the slope. A label with few positives, or none, gets
    about the common line, one with many its own.

    Arguments and result as of `temperature`.
    """
    flat = known.reshape(-1)
    one = logits.reshape(-1, 1)[flat], targets.reshape(-1, 1)[flat], np.ones((int(flat.sum()), 1), dtype=bool)
    loose = np.array([100.0]), np.array([100.0])
    common = _newton(*one, start=(np.ones(1), np.zeros(1)), spread=loose)
    slope, shift = max(float(common[0][0]), _LEAST_SLOPE), float(common[1][0])
    labels = logits.shape[1]
    start = np.full(labels, slope), np.full(labels, shift)
    spread = np.full(labels, _SLOPE_SPREAD * slope), np.full(labels, _SHIFT_SPREAD)
    slopes, shifts = _newton(logits, targets, known, start=start, spread=spread)
    return np.maximum(slopes, _LEAST_SLOPE), shifts


def _newton(logits: Array, targets: Array, known: Array, *, start: Lines, spread: Lines) -> Lines:
    """Return the L lines of the largest posterior, each by damped Newton steps: the problem is convex.

    Args:
        start: where the lines begin, and the means of their Gaussians; `spread`: their deviations.
    """
    slopes, shifts = start[0].copy(), start[1].copy()
    tight = 1 / spread[0] ** 2, 1 / spread[1] ** 2

    def loss(slopes: Array, shifts: Array) -> Array:
        line = slopes * logits + shifts
        fit = np.where(known, np.logaddexp(0, line) - targets * line, 0).sum(0)
        return fit + 0.5 * tight[0] * (slopes - start[0]) ** 2 + 0.5 * tight[1] * (shifts - start[1]) ** 2

    best = loss(slopes, shifts)
    for _ in range(_STEPS):
        probability = np.exp(-np.logaddexp(0, -(slopes * logits + shifts)))
        wrong = np.where(known, probability - targets, 0)
        weight = np.where(known, probability * (1 - probability), 0)
        gradient = (
            (wrong * logits).sum(0) + tight[0] * (slopes - start[0]),
            wrong.sum(0) + tight[1] * (shifts - start[1]),
        )
        aa, bb = (weight * logits**2).sum(0) + tight[0], weight.sum(0) + tight[1]
        ab = (weight * logits).sum(0)
        area = aa * bb - ab**2  # > 0: both diagonal parts hold a prior's share
        step = (bb * gradient[0] - ab * gradient[1]) / area, (aa * gradient[1] - ab * gradient[0]) / area
        size = np.ones_like(slopes)
        for _ in range(30):
            tried = slopes - size * step[0], shifts - size * step[1]
            value = loss(*tried)
            worse = value > best
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        keep = worse  # no step along this label's direction gains any more
        slopes, shifts = np.where(keep, slopes, tried[0]), np.where(keep, shifts, tried[1])
        gained, best = best - np.minimum(best, value), np.minimum(best, value)
        if (gained <= _ENOUGH).all():
            break
    return slopes, shifts


LINES: Mapping[str, Callable[[Array, Array, Array], Lines]] = {
    "none": no_lines,
    "temperature": temperature,
    "platt": platt,
}
