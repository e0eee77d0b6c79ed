"""Pairwise hinge losses: every pair alike, weighted by exact rank (WARP), and WARP by sampling."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES
from reeltag.losses.clips import Clips, clips_of

Rank = Literal["overall", "absent", "violators"]


@LOSSES.register("pairwise_ranking")
def pairwise_ranking(
    logits: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    per_pair: bool = False,
    ignore: Tensor | None = None,
) -> Tensor:
    """Mean over clips of the sum over present p and absent n of max(0, margin - logit_p + logit_n).

    Paper: Gong et al. Deep Convolutional Ranking for Multilabel Image Annotation. ICLR 2014, arXiv:1312.4894, section
    3.2. Memory is O(P L), P the present labels of the batch. The code of rml-cnn divides by 20 more.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        margin: > 0.
        per_pair: divide each clip's sum by its number of pairs.
        ignore: (B, L), true where the truth is unknown: the label is in no pair.

    Returns:
        A scalar >= 0. A clip with no present or no absent label adds 0, and counts.

    Raises:
        ValueError: shapes differ, or `margin` is not positive.
    """
    clips, row, _, hinges = _hinges(logits, targets, margin, ignore)
    sums = hinges.sum(dim=1)  # (P,)
    if per_pair:
        sums = sums / (clips.present.sum(dim=1) * clips.absent.sum(dim=1)).clamp(min=1)[row]
    return clips.mean_of_clips(_by_clip(sums, row, clips))


@LOSSES.register("warp")
def warp(
    logits: Tensor,
    targets: Tensor,
    *,
    rank: Rank = "overall",
    divide: bool = False,
    margin: float = 1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Mean over clips of the sum over present p of W(r_p) x the sum over absent n of max(0, margin - l_p + l_n).

    W(r) = 1 + 1/2 + ... + 1/r, W(0) = 0, with the exact rank r_p, through which no gradient flows.

    Paper: Weston, Bengio, Usunier. WSABIE. IJCAI 2011; Gong et al., arXiv:1312.4894, section 3.3. The texts leave the
    rank open, so `rank` names it. Both estimate it by sampling: that is `warp_sampled`.

    Public versions: moments_models looks W up by sorted positions rather than ranks, takes the mean of the hinges over
    absent labels and gives NaN when a clip has no absent label; several copies add 1/i + 1 instead of 1/(i + 1).

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        rank: `overall`, the place among all labels from 1 (Gong); `absent`, how many absent labels score at least as
            much; `violators`, how many absent labels come within the margin (Usunier). A tie with an absent label
            counts against p.
        divide: use W(r) / r: with `violators` the value that WSABIE's sampling has on average.
        margin: > 0.
        ignore: (B, L), true where the truth is unknown: the label is in no pair and takes no place.

    Returns:
        A scalar >= 0. A clip with no present or no absent label adds 0, and counts.

    Raises:
        ValueError: shapes differ, or an option is not allowed.
    """
    if rank not in get_args(Rank):
        raise ValueError(f"rank must be one of {', '.join(get_args(Rank))}, got {rank!r}")
    clips, row, label, hinges = _hinges(logits, targets, margin, ignore)
    with torch.no_grad():
        if rank == "violators":
            ranks = (hinges > 0).sum(dim=1)
        else:
            own = clips.logits[row, label, None]  # (P, 1)
            ranks = ((clips.logits[row] >= own) & clips.absent[row]).sum(dim=1)
            if rank == "overall":
                ranks = ranks + 1 + ((clips.logits[row] > own) & clips.present[row]).sum(dim=1)
        weights = harmonic(clips)[ranks]
        if divide:
            weights = weights / ranks.clamp(min=1)
    return clips.mean_of_clips(_by_clip(weights * hinges.sum(dim=1), row, clips))


@LOSSES.register("warp_sampled")
def warp_sampled(
    logits: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    generator: torch.Generator | None = None,
    ignore: Tensor | None = None,
) -> Tensor:
    """WARP as published: absent labels are drawn until one comes within the margin; how long it took gives the rank.

    Mean over clips of the sum over present p of W(floor((L - 1) / s)) x max(0, margin - l_p + l_n), n the first absent
    label within the margin in a random order (without replacement) and s its place in that order; 0 if there is none.

    Paper: as `warp`. Public versions: rml-cnn multiplies by the hinges of *all* absent labels, rounds the rank instead
    of flooring it, divides by 20 more, and draws anew for the gradient, which then is not that of the value;
    WARP-Pytorch weights by the logarithm of the rank and sums over clips.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        margin: > 0.
        generator: a CPU generator of the draws; None is torch's own, which a run seeds and restores.
        ignore: (B, L), true where the truth is unknown: the label is never drawn, and L counts the others.

    Returns:
        A scalar >= 0. A clip with no present or no absent label adds 0, and counts.

    Raises:
        ValueError: shapes differ, or `margin` is not positive.
    """
    clips, row, _, hinges = _hinges(logits, targets, margin, ignore)
    order = torch.rand(hinges.shape, generator=generator, dtype=torch.float64).to(hinges.device)
    first, trials = first_violators(hinges, clips.absent[row], order)
    num_labels = (clips.present | clips.absent).sum(dim=1)[row]
    ranks = torch.div(num_labels - 1, trials, rounding_mode="floor")
    return clips.mean_of_clips(_by_clip(harmonic(clips)[ranks] * first, row, clips))


def first_violators(hinges: Tensor, absent: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first positive hinge of each row in an order, 0 where there is none, and its place from 1.

    Args:
        hinges: (P, L), 0 where a label is not absent.
        absent: (P, L) bool.
        order: (P, L) distinct numbers; smaller comes earlier.
    """
    late = order.masked_fill(hinges <= 0, float("inf"))
    at = late.argmin(dim=1, keepdim=True)  # (P, 1)
    trials = 1 + ((order < order.gather(1, at)) & absent).sum(dim=1)
    return hinges.gather(1, at)[:, 0], trials


def harmonic(clips: Clips) -> Tensor:
    """Return W(0) to W(L), (L + 1,), in the dtype and on the device of the logits."""
    steps = torch.arange(1, clips.logits.shape[1] + 1, dtype=torch.float64)
    return F.pad((1 / steps).cumsum(0), (1, 0)).to(clips.logits)


def _hinges(
    logits: Tensor, targets: Tensor, margin: float, ignore: Tensor | None
) -> tuple[Clips, Tensor, Tensor, Tensor]:
    """Return the clips, the clip and the label of each of the P present pairs, and their hinges (P, L)."""
    if margin <= 0:
        raise ValueError(f"margin must be > 0, got {margin}")
    clips = clips_of(logits, targets, ignore)
    row, label = clips.present.nonzero(as_tuple=True)
    hinges = F.relu(margin - clips.logits[row, label, None] + clips.logits[row])  # (P, L)
    return clips, row, label, hinges * clips.absent[row]


def _by_clip(values: Tensor, row: Tensor, clips: Clips) -> Tensor:
    return values.new_zeros(len(clips.logits)).index_add(0, row, values)  # (B,)
