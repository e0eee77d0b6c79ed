"""Fit an ensemble on scores with truth: its weights, its classifier, and what evidence and ranks start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reeltag.errors import StoreError
from reeltag.inference.aligned import Aligned, Array, Named, align, as_logits
from reeltag.inference.ensemble import Ensemble, Member, Method, Of, fuse
from reeltag.inference.ensemble_weights import greedy_weights, search_weights
from reeltag.inference.evidence import Evidence, base_of, centers_of
from reeltag.inference.ranks import fit_ranks
from reeltag.inference.stacking import fit_stack, fit_svm
from reeltag.metrics import METRICS

FIT_METRICS = ("map_macro", "map_samples", "gap")
LEARN = ("weighted", "greedy", "stack", "svm")  # the methods that need truth
FOLDS = 5


def fit_ensemble(
    scores: Sequence[Named], *, method: Method = "mean", of: Of | None = None, metric: str = "map_macro"
) -> Ensemble:
    """Make an ensemble of score sets, usually those of the validation split.

    `weighted` looks for the weights with the largest metric by steps along one weight at a time (`search_weights`),
    once from equal weights and once from the best member alone, and takes the better end; `greedy` adds members one by
    one (`greedy_weights`); `stack` and `svm` learn a classifier for each label (`reeltag.inference.stacking`). What is
    fitted on a split flatters the figures of that split: report them on another.

    Args:
        scores: members by name, of one split; names need not differ (see `Member`).
        method: of `mean` and `rank`, which need no truth, `weighted`, `greedy`, `stack` and `svm`.
        of: what is averaged, or `evidence`, which is added up (see `Evidence`); None is probabilities. `rank`, `stack`
            and `svm` have their own.
        metric: of `FIT_METRICS`, what `weighted` and `greedy` make large and what is noted of every member.

    Returns:
        The ensemble; `fitted` holds the metric of the ensemble (under its name), of the `mean`, of each member on all
        videos (under `alone: <place> <name>`) and, of methods that learn, under `held out`, that of five ensembles
        that were fitted on four fifths of the videos, each on the rest.

    Raises:
        StoreError: no truth where it is needed, or scores that do not fit together.
        ValueError: a metric that is not of `FIT_METRICS`, or an `of` that is not the method's to choose.
    """
    if metric not in FIT_METRICS:
        raise ValueError(f"metric must be one of {', '.join(FIT_METRICS)}, got {metric!r}")
    if of is not None and (method in ("rank", "stack", "svm") or of == "ranks"):
        raise ValueError(
            f"`of` is probabilities, logits or evidence, and for mean, weighted and greedy; got {of!r} with {method}"
        )
    aligned, members = align(scores), [Member(name=name, weights_hash=own.weights_hash) for name, own in scores]
    if aligned.targets is None:
        if method in LEARN:
            raise StoreError(
                "some videos have no truth, so no weights can be fitted; evaluate with labels, or --method mean"
            )
        return _equal(aligned, members, method, of)
    equal = _equal(aligned, members, "mean", of)
    made = equal if method == "mean" else _fit(aligned, members, method, of, metric)
    measure = _measure(equal, aligned, metric)
    found = {metric: _value(made.fuse(aligned).values, aligned, metric), "mean": measure(np.ones(len(scores)))}
    if method in LEARN and len(aligned.video_ids) >= FOLDS:
        found["held out"] = _held_out(aligned, members, method, of, metric)
    for index, ((name, _), row) in enumerate(zip(scores, np.eye(len(scores)), strict=True)):
        found[f"alone: {index + 1} {name}"] = measure(row, aligned.covered * row[:, None])
    known = {name: value for name, value in found.items() if not np.isnan(value)}
    return made.model_copy(update={"fitted": known})


def _equal(aligned: Aligned, members: list[Member], method: Method, of: Of | None) -> Ensemble:
    """Return an ensemble of equal weights: of `mean`, or of `rank`."""
    averaged: Of = "ranks" if method == "rank" else of or "probabilities"
    return Ensemble(
        method=method,
        of=averaged,
        members=members,
        label_names=aligned.label_names,
        label_shares=label_shares(aligned),
        evidence=fit_evidence(aligned, np.ones(len(members))) if averaged == "evidence" else None,
        ranks=fit_ranks(aligned.values, aligned.covered) if averaged == "ranks" else None,
    )


def _fit(aligned: Aligned, members: list[Member], method: Method, of: Of | None, metric: str) -> Ensemble:
    """Return the ensemble of a method on scores with truth."""
    if method in ("mean", "rank"):
        return _equal(aligned, members, method, of)
    if method in ("stack", "svm"):
        names, shares = aligned.label_names, label_shares(aligned)
        stack = fit_stack(aligned) if method == "stack" else fit_svm(aligned)
        return Ensemble(
            method=method, of="logits", members=members, label_names=names, label_shares=shares, stack=stack
        )
    equal = _equal(aligned, members, "mean", of)
    measure = _measure(equal, aligned, metric)
    if method == "greedy":
        weights, _ = greedy_weights(lambda row: measure(row, aligned.covered * (row > 0)[:, None]), len(members))
    else:
        only = np.eye(len(members))
        alone = [measure(row, aligned.covered * row[:, None]) for row in only]
        starts = np.ones(len(members)), only[int(np.argmax(alone))]
        weights, _ = max((search_weights(measure, start) for start in starts), key=lambda end: end[1])
    weighed = [m.model_copy(update={"weight": float(w)}) for m, w in zip(members, weights, strict=True)]
    evidence = None if equal.evidence is None else fit_evidence(aligned, weights)
    return equal.model_copy(update={"method": method, "members": weighed, "evidence": evidence})


def _held_out(aligned: Aligned, members: list[Member], method: Method, of: Of | None, metric: str) -> float:
    """Return the metric of all videos, each scored by an ensemble that was fitted without its fifth."""
    place = np.random.default_rng(0).permutation(len(aligned.video_ids)) % FOLDS
    values = np.zeros((len(place), len(aligned.label_names)))
    for fold in range(FOLDS):
        fitted = aligned.rows(place != fold)
        if not fitted.covered.any():
            return float("nan")
        values[place == fold] = _fit(fitted, members, method, of, metric).fuse(aligned.rows(place == fold)).values
    return _value(values, aligned, metric)


def _value(values: Array, aligned: Aligned, metric: str) -> float:
    assert aligned.targets is not None  # whoever measures has checked it
    return METRICS[metric](values, aligned.targets, ignore=aligned.ignore)


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
    values, shares, adds = ensemble.terms(aligned), np.array(ensemble.label_shares), ensemble.adds
    rest = as_logits(shares) if ensemble.of in ("logits", "evidence") else shares  # in the order of what comes of them
    targets = aligned.targets
    assert targets is not None  # whoever measures has checked it

    def measure(weights: Array, covered: Array = aligned.covered) -> float:
        fused, known = fuse(values, covered, weights / weights.max() if adds else weights, divide=not adds)
        if adds and not (metric == "map_macro" and known.all()):  # a base changes no order within a label
            fused += base_of(fused[known], shares)
        return METRICS[metric](np.where(known[:, None], fused, rest), targets, ignore=aligned.ignore)

    return measure
