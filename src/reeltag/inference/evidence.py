"""Late fusion by evidence: what each member adds to what it says of a video on average."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reeltag.sections import Section

Array: TypeAlias = npt.NDArray[Any]
_FARTHEST = 64.0  # logits: no base lies beyond
_HALVINGS = 40  # of the interval of a base: to 1e-10


class Evidence(Section):
    """What scores are compared with, and what their sum starts from.

    The logit of a label is base + sum(weight * (logit - center)) over the members that cover a video: members that
    are independent given the label add their log likelihood ratios (the product rule of Kittler, Hatef, Duin, Matas,
    On combining classifiers, PAMI 1998, section 2.1). A member that does not cover a video adds exactly nothing,
    where a mean of logits would be moved by its absence.

    Departure: the center is the member's mean logit over the videos of the fit and not the logit of the label's share,
    so that a member that knows nothing of a label, and always says the same, adds nothing either. The base makes the
    mean fused probability of a label its share in the fit.

    Attributes:
        centers: by member, L logits.
        base: L logits.
    """

    centers: list[list[float]]
    base: list[float]

    @property
    def shape(self) -> tuple[int, int]:
        """Members and labels, or (-1, -1) where lists are of several lengths."""
        return shape_of(self.centers, [self.base])


def shape_of(by_member: list[list[float]], by_label: list[list[float]]) -> tuple[int, int]:
    """Return (M, L) of M lists of L numbers and of further lists of L, or (-1, -1) where one is of another length."""
    lengths = {len(row) for row in (*by_member, *by_label)}
    return (len(by_member), lengths.pop()) if len(lengths) == 1 else (-1, -1)


def centers_of(logits: Array, covered: Array) -> Array:
    """Return (M, L) mean logits of (M, N, L) over the videos (M, N) that each member covers; 0 where it covers none."""
    count = covered.sum(1)[:, None]
    return np.where(covered[..., None], logits, 0).sum(1) / np.maximum(count, 1)


def base_of(sums: Array, shares: Array) -> Array:
    """Return the (L,) logits that, added to (N, L) sums of evidence, make the mean probability of a label its share.

    Args:
        sums: over the members of each video.
        shares: (L,), in 0..1; kept half a video away from both ends, so that a label that no video of the fit carries
            stays possible.
    """
    half = 0.5 / (len(sums) + 1)
    wanted = np.clip(shares, half, 1 - half)
    low, high = np.full(sums.shape[1], -_FARTHEST), np.full(sums.shape[1], _FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            more = (1 / (1 + np.exp(-(sums + middle)))).mean(0) > wanted
        low, high = np.where(more, low, middle), np.where(more, middle, high)
    base: Array = (low + high) / 2
    return base
