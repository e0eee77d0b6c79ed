"""Weights of an ensemble on scores with truth, and what each member of it carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reeltag.errors import StoreError
from reeltag.inference.ensemble import (
    Aligned,
    Array,
    Ensemble,
    Member,
    Method,
    Named,
    Of,
    align,
    as_logits,
    fuse,
    matched,
)
from reeltag.inference.evidence import Evidence, base_of, centers_of
from reeltag.metrics import METRICS
from reeltag.store.scores import Scores

FIT_METRICS = ("map_macro", "map_samples", "gap")
STEPS = (0.5, 0.25, 0.125, 0.0625)
_GAIN = 1e-9  # less is no gain but the rounding of sums


def fit_ensemble(
    scores: Sequence[Named], *, method: Method = "mean", of: Of = "probabilities", metric: str = "map_macro"
) -> Ensemble:
    """Make an ensemble of score sets, usually those of the validation split.

    `weighted` looks for the weights with the largest metric by steps along one weight at a time (`search_weights`),
    once from equal weights and once from the best member alone, and takes the better end. Weights that are fitted on a
    split flatter the figures of that split: report them on another.

    Args:
        scores: members by name, of one split; names need not differ (see `Member`).
        method: `mean` for equal weights, which needs no truth, or `weighted`.
        of: what is averaged, or `evidence`, which is added up (see `Evidence`).
        metric: of `FIT_METRICS`, what `weighted` makes large and what is noted of every member.

    Returns:
        The ensemble; `fitted` holds the metric of the ensemble (under its name), of the `mean`, and of each member on
        all videos (under `alone: <place> <name>`).

    Raises:
        StoreError: no truth where it is needed, or scores that do not fit together.
        ValueError: a metric that is not of `FIT_METRICS`.
    """
    if metric not in FIT_METRICS:
        raise ValueError(f"metric must be one of {', '.join(FIT_METRICS)}, got {metric!r}")
    aligned, weights = align(scores), np.ones(len(scores))
    equal = Ensemble(
        method=method,
        of=of,
        members=[Member(name=name, weights_hash=own.weights_hash) for name, own in scores],
        label_names=aligned.label_names,
        label_shares=label_shares(aligned),
        evidence=fit_evidence(aligned, weights) if of == "evidence" else None,
    )
    if aligned.targets is None:
        if method == "weighted":
            raise StoreError(
                "some videos have no truth, so no weights can be fitted; evaluate with labels, or --method mean"
            )
        return equal
    measure = _measure(equal, aligned, metric)
    only = np.eye(len(scores))
    alone = [measure(row, aligned.covered * row[:, None]) for row in only]
    equally = measure(weights)
    found, evidence = {metric: equally, "mean": equally}, equal.evidence
    if method == "weighted":
        ends = [search_weights(measure, start) for start in (weights, only[int(np.argmax(alone))])]
        weights, found[metric] = max(ends, key=lambda end: end[1])  # the first of equals: equal weights
        evidence = None if evidence is None else fit_evidence(aligned, weights)
    for index, (name, _) in enumerate(scores):
        found[f"alone: {index + 1} {name}"] = alone[index]
    members = [m.model_copy(update={"weight": float(w)}) for m, w in zip(equal.members, weights, strict=True)]
    known = {name: value for name, value in found.items() if not np.isnan(value)}
    return equal.model_copy(update={"members": members, "fitted": known, "evidence": evidence})


def fit_evidence(aligned: Aligned, weights: Array) -> Evidence:
    """Return the members' mean logits, and the base at which fused scores have the labels' shares on the same videos.

    Where no truth is known, a label's share is the mean probability that the members give it.
    """
    if not aligned.covered.any():
        raise StoreError(
            "no member covers any video, so there is no evidence; fit on videos that have something to see"
        )
    logits = as_logits(aligned.values)
    centers = centers_of(logits, aligned.covered)
    given = label_shares(aligned)
    shares = np.array(given) if given is not None else aligned.values[aligned.covered].mean(0)
    sums, known = fuse(logits - centers[:, None], aligned.covered, weights, divide=False)
    return Evidence(centers=centers.tolist(), base=base_of(sums[known], shares).tolist())


def label_shares(aligned: Aligned) -> list[float] | None:
    """Return the share of the videos whose truth is known that carry each label (0.5 where none is known), or None."""
    if aligned.targets is None:
        return None
    known = np.ones(aligned.targets.shape, dtype=bool) if aligned.ignore is None else ~aligned.ignore
    count = known.sum(0)
    shares = np.where(count > 0, (aligned.targets * known).sum(0) / np.maximum(count, 1), 0.5)
    return [float(share) for share in shares]


def _measure(ensemble: Ensemble, aligned: Aligned, metric: str) -> Callable[..., float]:
    """Return the function of weights (M,), and of who covers a video, that gives the metric over all videos."""
    values, rest = aligned.for_mean(ensemble.of), np.array(ensemble.label_shares)
    adds = ensemble.evidence is not None
    shares = rest
    if ensemble.of != "probabilities":  # their order is that of the probabilities that come of them
        rest = as_logits(rest)
    if ensemble.evidence is not None:
        values = values - np.array(ensemble.evidence.centers)[:, None]
    targets = aligned.targets
    assert targets is not None  # whoever measures has checked it

    def measure(weights: Array, covered: Array = aligned.covered) -> float:
        fused, known = fuse(values, covered, weights / weights.max() if adds else weights, divide=not adds)
        if adds and not (metric == "map_macro" and known.all()):  # a base changes no order within a label
            fused += base_of(fused[known], shares)
        return METRICS[metric](np.where(known[:, None], fused, rest), targets, ignore=aligned.ignore)

    return measure


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


@dataclass(frozen=True)
class AblationRow:
    """One line of an ablation.

    Attributes:
        what: `all`, `without <name>` or `<name> alone`.
        values: metric -> value over all videos.
        groups: group of labels -> mean average precision over its labels.
        covered: share of the videos that the members left cover.
    """

    what: str
    values: dict[str, float]
    groups: dict[str, float]
    covered: float


def ablation(
    ensemble: Ensemble,
    scores: Sequence[Named],
    *,
    metrics: Sequence[str] = ("map_macro", "gap"),
    groups: Mapping[str, Sequence[str]] | None = None,
    by_place: bool = False,
) -> list[AblationRow]:
    """Return what an ensemble scores with all members, without each name, and with each name alone.

    Every line is over the same videos: one that the members left do not cover gets the label shares. A difference
    between two lines is what a name carries.

    Args:
        ensemble: whose members of one name go together.
        scores: see `Ensemble.apply`, also for `by_place`.
        metrics: names.
        groups: name of a group -> labels of it.

    Raises:
        StoreError: a video without truth, or a group with a label that the scores do not have.
    """
    aligned = align(matched(ensemble, scores, by_place=by_place))
    if aligned.targets is None:
        raise StoreError("some videos have no truth, so nothing can be measured; evaluate with labels")
    columns = {name: _columns(aligned, name, labels) for name, labels in (groups or {}).items()}
    places = [(index, member.name) for index, member in enumerate(ensemble.members) if aligned.covered[index].any()]
    names = list(dict.fromkeys(name for _, name in places))
    kept = {"all": names} | {f"without {name}": [n for n in names if n != name] for name in names}
    kept |= {f"{name} alone": [name] for name in names}
    if len(names) < 2:
        kept = {"all": names}
    rows = []
    for what, left in kept.items():
        fused = ensemble.fuse(aligned, [index for index, name in places if name in left])
        rows.append(_row(what, fused, metrics, columns))
    return rows


def _columns(aligned: Aligned, group: str, labels: Sequence[str]) -> list[int]:
    if strange := [label for label in labels if label not in aligned.label_names]:
        raise StoreError(f"the group {group!r} has the label {strange[0]!r}, which the scores do not have")
    return [aligned.label_names.index(label) for label in labels]


def _row(what: str, fused: Scores, metrics: Sequence[str], columns: Mapping[str, list[int]]) -> AblationRow:
    targets, ignore = fused.targets, fused.ignore
    assert targets is not None  # `ablation` has checked it
    by_group = {
        name: METRICS["map_macro"](
            fused.values[:, chosen], targets[:, chosen], ignore=None if ignore is None else ignore[:, chosen]
        )
        for name, chosen in columns.items()
    }
    values = {name: METRICS[name](fused.values, targets, ignore=ignore) for name in metrics}
    covered = 1.0 if fused.covered is None else float(fused.covered.mean())
    return AblationRow(what, values, by_group, covered)
