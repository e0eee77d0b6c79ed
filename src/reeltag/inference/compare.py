"""Runs side by side: metrics as mean and spread over seeds, and the paired interval of their difference."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reeltag.errors import StoreError
from reeltag.metrics import METRICS
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.metrics.interval import Interval, bootstrap_interval
from reeltag.metrics.pairs import Array
from reeltag.store.scores import Scores, require_same_labels


@dataclass(frozen=True)
class GroupResult:
    """One system: its name, seeds, and by metric the mean and the standard deviation over seeds (NaN for one seed)."""

    name: str
    num_seeds: int
    mean: dict[str, float]
    sd: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """Mean of `name` minus mean of `baseline` in `metric`, with the paired bootstrap interval over videos."""

    name: str
    baseline: str
    metric: str
    value: float
    interval: Interval

    @property
    def clear(self) -> bool:
        """The interval does not hold zero."""
        return self.interval.low > 0 or self.interval.high < 0


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, on `num_videos` videos that all groups share; `differences` are against the first group."""

    num_videos: int
    groups: list[GroupResult]
    differences: list[Difference]

    def to_rows(self) -> list[list[str]]:
        """Return a table of strings: a header, one row a metric, and one row a difference."""
        rows = [["metric", *(f"{g.name} ({g.num_seeds} seed{'s' * (g.num_seeds > 1)})" for g in self.groups)]]
        for metric in self.groups[0].mean:
            rows.append([metric, *(_mean_sd(g.mean[metric], g.sd[metric]) for g in self.groups)])
        for i in range(len(self.groups) - 1):
            for d in self.differences[i :: len(self.groups) - 1]:
                text = f"{d.value:+.4f} [{d.interval.low:+.4f}, {d.interval.high:+.4f}]{'' if d.clear else ' holds 0'}"
                cells = [text if g.name == d.name else "" for g in self.groups]
                rows.append([f"{d.metric} - {d.baseline}", *cells])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; NaN becomes None."""
        plain: dict[str, Any] = asdict(self)
        for group in plain["groups"]:
            for key in ("mean", "sd"):
                group[key] = {name: None if np.isnan(value) else value for name, value in group[key].items()}
        return plain


def compare(
    groups: Mapping[str, Sequence[Scores | Path]],
    *,
    split: str = "val",
    metrics: Sequence[str] = ("map_macro",),
    resamples: int = 500,
    seed: int = 0,
) -> Comparison:
    """Compare groups of seeds on the same videos.

    The interval draws videos with replacement, the same for both sides, and takes the difference of the two means over
    seeds: it says how the difference depends on the choice of videos. The spread over seeds stands beside it.

    Args:
        groups: name -> one or more score sets, score files or run folders (then `scores/<split>.parquet` is read).
            The first group is the baseline.
        split: which score file of a run folder.
        metrics: names that get an interval; every metric gets a mean.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        StoreError: a file is missing, no truth is stored, or labels, videos or truth differ between the runs.
        ValueError: no group, or a group without a run.
    """
    if not groups or not all(groups.values()):
        raise ValueError("compare needs at least one group, and at least one run in each")
    loaded = {name: [_load(run, split) for run in runs] for name, runs in groups.items()}
    first_name, first = next((name, runs[0]) for name, runs in loaded.items())
    if first.targets is None:
        raise StoreError(
            f"the scores of {first_name!r} hold no truth, so nothing can be measured; evaluate with labels"
        )
    aligned = {
        name: [_align(scores, first, (first_name, name)).values for scores in runs] for name, runs in loaded.items()
    }
    results = []
    for name, values in aligned.items():
        by_seed = [evaluate_scores(scores, first.targets, first.ignore).values for scores in values]
        mean = {metric: statistics.fmean(seed_values[metric] for seed_values in by_seed) for metric in by_seed[0]}
        sd = {metric: _sd([seed_values[metric] for seed_values in by_seed]) for metric in by_seed[0]}
        results.append(GroupResult(name, len(values), mean, sd))
    differences = []
    for metric in metrics:
        for other in list(aligned)[1:]:
            difference = _paired(metric, aligned[other], aligned[first_name], first)
            value = difference(np.arange(len(first.video_ids)))
            interval = bootstrap_interval(difference, len(first.video_ids), resamples=resamples, seed=seed)
            differences.append(Difference(other, first_name, metric, value, interval))
    return Comparison(len(first.video_ids), results, differences)


def _paired(metric: str, ours: list[Array], theirs: list[Array], truth: Scores) -> Callable[[Array], float]:
    """Return the function of rows that gives the difference of the two groups' mean metric on those videos."""
    measure, targets = METRICS[metric], truth.targets
    assert targets is not None  # `compare` has checked it

    def mean(side: list[Array], rows: Array) -> float:
        ignore = None if truth.ignore is None else truth.ignore[rows]
        return statistics.fmean(measure(values[rows], targets[rows], ignore=ignore) for values in side)

    def difference(rows: Array) -> float:
        return mean(ours, rows) - mean(theirs, rows)

    return difference


def _load(run: Scores | Path, split: str) -> Scores:
    if isinstance(run, Scores):
        return run
    return Scores.read(run / "scores" / f"{split}.parquet" if run.is_dir() else run)


def _align(scores: Scores, first: Scores, names: tuple[str, str]) -> Scores:
    """Return `scores` in the order of `first`, or say what differs."""
    require_same_labels(first, scores, names=names)
    if extra := set(scores.video_ids) - set(first.video_ids):
        raise StoreError(
            f"{names[1]} has {len(extra)} videos that {names[0]} has not, first {min(extra)!r}; "
            f"score the same manifest and split with every model"
        )
    scores = scores.rows(first.video_ids)
    for what in ("targets", "ignore"):
        ours, theirs = getattr(first, what), getattr(scores, what)
        if theirs is not None and (ours is None or not np.array_equal(ours, theirs)):
            at = 0 if ours is None else int(np.argwhere(ours != theirs)[0][0])
            raise StoreError(
                f"{names[0]} and {names[1]} hold different {what}, first at video {first.video_ids[at]!r}; "
                f"evaluate both on one manifest"
            )
    return scores


def _sd(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def _mean_sd(mean: float, sd: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.4f}" if np.isnan(sd) else f"{mean:.4f} ± {sd:.4f}"
