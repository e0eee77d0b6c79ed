"""Stacking: for each label a linear classifier on what the members say of it, by logistic regression or by an SVM."""

from __future__ import annotations

import numpy as np

from reeltag.inference.aligned import Aligned, Array, as_logits
from reeltag.inference.baselines import create_baseline
from reeltag.inference.evidence import centers_of, shape_of
from reeltag.inference.penalised_logistic import fit_logistic
from reeltag.sections import Section

FOLDS = 5
_WEIGHT_SPREAD, _SHIFT_SPREAD = 0.5, 1.0  # of a label's classifier about the common one
_LOOSE = 100.0


class Stack(Section):
    """A classifier for each label: base + sum(weight * (logit - center)) over the members that cover a video.

    A member that does not cover a video adds nothing, as in `Evidence`.

    Attributes:
        weights: by member, L numbers of any sign.
        centers: by member, its L mean logits in the fit.
        base: L logits.
    """

    weights: list[list[float]]
    centers: list[list[float]]
    base: list[float]

    @property
    def shape(self) -> tuple[int, int]:
        """Members and labels, or (-1, -1) where lists are of several lengths."""
        members, labels = shape_of(self.weights, [self.base])
        return (members, labels) if shape_of(self.centers, [self.base]) == (members, labels) else (-1, -1)

    def terms(self, logits: Array) -> Array:
        """Return (M, N, L), what members add, of their logits."""
        weights, centers = np.array(self.weights)[:, None], np.array(self.centers)[:, None]
        terms: Array = weights * (logits - centers)
        return terms


def fit_stack(aligned: Aligned) -> Stack:
    """Fit a logistic regression for each label on the members' logits of it.

    Paper: Wolpert. Stacked Generalization. Neural Networks 5, 1992. One regression for all labels together, with the
    logit of a label's share beside the members, is fitted first, and each label's own is drawn towards it by a
    Gaussian: of deviation 1 for the base, and of half the root mean square of the common weights for a weight. So a
    label with few positives gets about the common weights.

    Args:
        aligned: with truth.
    """
    said, truth, known = _said(aligned)
    shares = _share_logits(truth, known)
    members, _, labels = said.shape
    rows = known.T  # (L, N), so that a label's pairs are neighbours
    pairs = said.transpose(2, 1, 0)[rows]  # (P, M)
    prior = np.broadcast_to(shares[:, None], rows.shape)[rows]
    every = np.column_stack([pairs, prior, np.ones(len(pairs))])
    start = np.r_[np.ones(members), 1.0, 0.0]
    common = fit_logistic(every, truth.T[rows], start, np.full(len(start), _LOOSE))
    size = _WEIGHT_SPREAD * max(float(np.sqrt(np.mean(common[:members] ** 2))), 1e-3)
    spread = np.r_[np.full(members, size), _SHIFT_SPREAD]
    weights, base = np.empty((members, labels)), np.empty(labels)
    for label in range(labels):
        seen = known[:, label]
        features = np.column_stack([said[:, seen, label].T, np.ones(int(seen.sum()))])
        mean = np.r_[common[:members], common[-2] * shares[label] + common[-1]]
        found = fit_logistic(features, truth[seen, label], mean, spread)
        weights[:, label], base[label] = found[:-1], found[-1]
    return Stack(weights=weights.tolist(), centers=_centers(aligned).tolist(), base=base.tolist())


def fit_svm(aligned: Aligned, c: float = 1.0) -> Stack:
    """Fit a linear support vector machine for each label on the members' logits of it, and a line to probabilities.

    The line (Platt, 1999) is fitted on margins of videos that the machine has not learned from, five times a fifth. A
    label that fewer than five videos carry, or do not, gets its share in the fit, whatever the members say.

    Args:
        aligned: with truth.
        c: weight of the hinge losses against half the squared norm.
    """
    said, truth, known = _said(aligned)
    members, _, labels = said.shape
    weights, base = np.zeros((members, labels)), _share_logits(truth, known)
    for label in range(labels):
        seen = known[:, label]
        features, carried = said[:, seen, label].T, truth[seen, label]
        if min(carried.sum(), (~carried).sum()) < FOLDS:
            continue
        margins = np.zeros(len(features))
        for fold in range(FOLDS):
            out = _folds(carried) == fold
            slopes, bias = _machine(features[~out], carried[~out], c)
            margins[out] = features[out] @ slopes + bias
        line = np.column_stack([margins, np.ones(len(margins))])
        steep, shift = fit_logistic(line, carried, np.array([1.0, base[label]]), np.array([_LOOSE, _LOOSE]))
        slopes, bias = _machine(features, carried, c)
        weights[:, label], base[label] = max(steep, 0.0) * slopes, max(steep, 0.0) * bias + shift
    return Stack(weights=weights.tolist(), centers=_centers(aligned).tolist(), base=base.tolist())


def _machine(features: Array, carried: Array, c: float) -> tuple[Array, float]:
    """Return the (M,) slopes and the bias of a linear machine's margin."""
    machine = create_baseline("svm", c=c).fit(features, carried[:, None])
    probes = np.vstack([np.zeros(features.shape[1]), np.eye(features.shape[1])])
    margins = machine.scores(probes)[:, 0]
    return margins[1:] - margins[0], float(margins[0])


def _folds(carried: Array) -> Array:
    """Return the fold (N,) of each video: every fold gets a fifth of those that carry the label and of the others."""
    fold: Array = np.empty(len(carried), dtype=np.int64)
    for rows in (np.flatnonzero(carried), np.flatnonzero(~carried)):
        fold[rows] = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    return fold


def _centers(aligned: Aligned) -> Array:
    return centers_of(as_logits(aligned.values), aligned.covered)


def _said(aligned: Aligned) -> tuple[Array, Array, Array]:
    """Return (M, N, L) logits less their centers, 0 where a member says nothing; truth (N, L), and where it is known.

    A video that no member covers says nothing of the members: its truth counts as unknown.
    """
    assert aligned.targets is not None  # whoever fits has checked it
    said: Array = np.where(aligned.covered[..., None], as_logits(aligned.values) - _centers(aligned)[:, None], 0)
    known: Array = np.ones(aligned.targets.shape, dtype=bool) if aligned.ignore is None else ~aligned.ignore
    return said, aligned.targets > 0, known & (aligned.covered.sum(0)[:, None] > 0)


def _share_logits(truth: Array, known: Array) -> Array:
    shares = ((truth & known).sum(0) + 0.5) / (known.sum(0) + 1)
    logits: Array = np.log(shares / (1 - shares))
    return logits
