"""From scores over time to segments: on at a label's threshold, off below a lower one, gaps closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reeltag.errors import ReeltagError


@dataclass(frozen=True)
class SegmentRule:
    """How scores become segments.

    Attributes:
        off: a segment ends where the score is below this share of the label's threshold, in (0, 1].
        min_s: segments shorter than this are left out, after gaps were closed; at least 0.
        gap_s: gaps of at most this length between two segments of a label are closed; at least 0.

    Raises:
        ReeltagError: a number outside its range.
    """

    off: float = 0.7
    min_s: float = 0.0
    gap_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.off <= 1:
            raise ReeltagError(f"off={self.off:g} is a share of the threshold; give a number in (0, 1]")
        for flag, value in (("--min-s", self.min_s), ("--gap-s", self.gap_s)):
            if not 0 <= value < math.inf:
                raise ReeltagError(f"{flag} {value:g} must be seconds, 0 or more")


@dataclass(frozen=True)
class Segment:
    """A stretch of a file that carries a label.

    Attributes:
        label: its name.
        start_s: on the clock of the file, `end_s` likewise; half-open.
        score: mean over its time; `best` the highest.
    """

    label: str
    start_s: float
    end_s: float
    score: float
    best: float

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a line of `reeltag tag --timeline --json`."""
        return {
            "label": self.label,
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "score": round(self.score, 6),
            "max": round(self.best, 6),
        }


def find_segments(
    scores: NDArray[np.floating],
    cells_s: NDArray[np.float64],
    label_names: Sequence[str],
    thresholds: Sequence[float],
    rule: SegmentRule | None = None,
) -> list[Segment]:
    """Return the segments of all labels, by their start and then in the order of the labels.

    Args:
        scores: (P, L) in [0, 1]; NaN, where nothing could be scored, counts as below every threshold.
        cells_s: (P, 2) start and end of each stretch that has a score; each begins where the one before ends.
        label_names: L.
        thresholds: (L,) scores from which a label counts as present.
        rule: see `SegmentRule`.
    """
    rule = rule or SegmentRule()
    found: list[Segment] = []
    for column, (name, threshold) in enumerate(zip(label_names, thresholds, strict=True)):
        own = np.where(np.isnan(scores[:, column]), -math.inf, scores[:, column])
        for first, last in _kept(_merged(_runs(own, threshold, rule.off * threshold), cells_s, rule), cells_s, rule):
            inside = np.isfinite(own[first:last])  # a closed gap may hold stretches without a score
            values, lengths = own[first:last][inside], np.diff(cells_s[first:last])[inside, 0]
            start_s, end_s = float(cells_s[first, 0]), float(cells_s[last - 1, 1])
            found.append(Segment(name, start_s, end_s, float(np.average(values, weights=lengths)), float(values.max())))
    return sorted(found, key=lambda segment: segment.start_s)


def _runs(own: NDArray[np.floating], high: float, low: float) -> list[tuple[int, int]]:
    """Return half-open ranges that reach `high` once and stay at or above `low`, to both sides of where they do."""
    above = np.concatenate([[False], own >= low, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2).tolist()
    return [(first, last) for first, last in edges if (own[first:last] >= high).any()]


def _merged(runs: list[tuple[int, int]], cells_s: NDArray[np.float64], rule: SegmentRule) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in runs:
        if merged and cells_s[first, 0] - cells_s[merged[-1][1] - 1, 1] <= rule.gap_s:
            first = merged.pop()[0]
        merged.append((first, last))
    return merged


def _kept(runs: list[tuple[int, int]], cells_s: NDArray[np.float64], rule: SegmentRule) -> list[tuple[int, int]]:
    return [(first, last) for first, last in runs if cells_s[last - 1, 1] - cells_s[first, 0] >= rule.min_s]
