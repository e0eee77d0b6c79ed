"""Bootstrap intervals over videos: how far a value could move with other videos of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reeltag.metrics.pairs import Array


@dataclass(frozen=True)
class Interval:
    """A percentile interval: `low` and `high` at `level`, from `resamples` values that were not NaN."""

    low: float
    high: float
    level: float
    resamples: int


def bootstrap_interval(
    value_of: Callable[[Array], float], num_rows: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile interval of `value_of(rows)` over videos drawn with replacement.

    A paired comparison passes the *difference* of two systems on the same rows. Paper: Efron, Bootstrap Methods:
    Another Look at the Jackknife, Annals of Statistics 1979; percentile method.

    Args:
        value_of: called with (num_rows,) int64 row numbers, drawn with replacement.
        num_rows: the videos to draw from, >= 1.
        resamples: draws.
        level: share of the draws inside the interval, in (0, 1).
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: an argument is out of its range, or `value_of` was NaN on every draw.
    """
    if num_rows < 1 or resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"need num_rows >= 1, resamples >= 1 and level in (0, 1), got {num_rows}, {resamples} and {level}"
        )
    generator = np.random.default_rng(seed)
    values = np.array([value_of(generator.integers(num_rows, size=num_rows)) for _ in range(resamples)])
    values = values[~np.isnan(values)]
    if not values.size:
        raise ValueError(f"the value is NaN on all {resamples} draws: there is nothing to measure on these videos")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, int(values.size))
