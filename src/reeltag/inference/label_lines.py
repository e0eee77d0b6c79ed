"""Lines through the logits of labels that make probabilities agree with frequencies: none, temperature, Platt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reeltag.inference.penalised_logistic import fit_logistic

Array: TypeAlias = npt.NDArray[Any]
Lines = tuple[Array, Array]
_LOOSE = 1e3  # deviation of what nothing is known of
_LEAST_SLOPE = 1e-3  # a label whose scores say nothing, or the contrary, gets nearly one probability for all videos
_SLOPE_SPREAD, _SHIFT_SPREAD = 0.5, 1.0  # of a label's line about the common one


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
    slope = fit_logistic(logits[known][:, None], targets[known], np.ones(1), np.full(1, _LOOSE))[0]
    return np.full(logits.shape[1], max(float(slope), _LEAST_SLOPE)), np.zeros(logits.shape[1])


def platt(logits: Array, targets: Array, known: Array) -> Lines:
    """Return a line for each label, that with the least log loss, drawn towards one line for all.

    Paper: Platt. Probabilistic Outputs for Support Vector Machines. 1999. Departure: his targets are moved a little
    inwards so that few videos do not make a line steep. Here a Gaussian about the common line of all labels does this:
    of deviation 1 for the shift, and of half the common slope for the slope. A label with few positives, or none, gets
    about the common line, one with many its own.

    Arguments and result as of `temperature`.
    """
    start = np.array([1.0, 0.0])
    common = fit_logistic(_with_ones(logits[known]), targets[known], start, np.full(2, _LOOSE))
    common[0] = max(common[0], _LEAST_SLOPE)
    spread = np.array([_SLOPE_SPREAD * common[0], _SHIFT_SPREAD])
    found = np.empty((logits.shape[1], 2))
    for label in range(logits.shape[1]):
        seen = known[:, label]
        found[label] = fit_logistic(_with_ones(logits[seen, label]), targets[seen, label], common, spread)
    return np.maximum(found[:, 0], _LEAST_SLOPE), found[:, 1]


def _with_ones(logits: Array) -> Array:
    return np.column_stack([logits, np.ones(len(logits))])


LINES: Mapping[str, Callable[[Array, Array, Array], Lines]] = {
    "none": no_lines,
    "temperature": temperature,
    "platt": platt,
}
