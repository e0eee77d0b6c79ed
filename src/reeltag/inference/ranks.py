"""Ranks in place of scores: where a score lies among those of the fit, so that members of any scale can be averaged."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from reeltag.inference.aligned import Array, as_logits
from reeltag.sections import Section

_MOST_KNOTS = 64
_DIGITS = 5


class Ranks(Section):
    """The scores that ranks are taken among: by member and label some logits, and the share of the fit below each.

    The rank of a score is the share of the fit's videos below it, in (0, 1): linear between the logits that were kept,
    and beyond the smallest and the largest nearer and nearer to 0 and 1, so that no two different scores tie. A single
    video has one too, which a rank among the videos to be scored would not give. It is no probability: `reeltag
    calibrate --method platt` makes it one.

    Attributes:
        logits: by member and label, K rising numbers (K the same for all).
        shares: K rising numbers in (0, 1).
    """

    logits: list[list[list[float]]]
    shares: list[Annotated[float, Field(gt=0, lt=1)]]

    @property
    def shape(self) -> tuple[int, int]:
        """Members and labels, or (-1, -1) where lists are of several lengths."""
        labels = {len(member) for member in self.logits}
        knots = {len(label) for member in self.logits for label in member} | {len(self.shares)}
        return (len(self.logits), labels.pop()) if len(labels) == len(knots) == 1 else (-1, -1)

    def of(self, probabilities: Array) -> Array:
        """Return the ranks (M, N, L) of probabilities."""
        logits, shares = as_logits(probabilities), np.array(self.shares)
        found = np.empty_like(logits)
        for member, by_label in enumerate(self.logits):
            for label, kept in enumerate(by_label):
                knots, own = np.array(kept), logits[member, :, label]
                rank = np.interp(own, knots, shares)
                rank = np.where(own > knots[-1], 1 - (1 - shares[-1]) * np.exp(knots[-1] - own), rank)
                found[member, :, label] = np.where(own < knots[0], shares[0] * np.exp(own - knots[0]), rank)
        return found


def fit_ranks(values: Array, covered: Array) -> Ranks:
    """Return what ranks are taken among.

    At most 64 scores a member and label are kept, closer to each other towards the largest ones, which decide.

    Args:
        values: (M, N, L) probabilities.
        covered: (M, N) bool; the others are left out.
    """
    logits, most = as_logits(values), int(covered.sum(1).max(initial=1))
    places = 1 - (1 - np.linspace(0, 1, max(2, min(_MOST_KNOTS, most)))) ** 2
    kept = []
    for own, seen in zip(logits, covered, strict=True):
        known = own[seen] if seen.any() else np.zeros((1, own.shape[1]))
        kept.append(np.round(np.quantile(known, places, axis=0), _DIGITS).T.tolist())
    return Ranks(logits=kept, shares=((places * most + 0.5) / (most + 1)).tolist())
