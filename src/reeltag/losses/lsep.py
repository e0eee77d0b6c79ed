"""Log-sum-exp pairwise losses: all pairs, sampled pairs, weighted by label, and the learned thresholds beside them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES
from reeltag.losses.bce import bce
from reeltag.losses.clips import clips_of, log_sum_exp_where, per_label


@LOSSES.register("lsep")
def lsep(logits: Tensor, targets: Tensor, *, ignore: Tensor | None = None) -> Tensor:
    """Mean over clips of log(1 + sum over absent n, present p of exp(logit_n - logit_p)).

    Paper: Li, Song, Luo. Improving Pairwise Ranking for Multi-label Image Classification. CVPR 2017,
    arXiv:1704.03135, equation 4. Memory is O(L) a clip: no pair is written down.

    Public versions: moments_models and several others take one logarithm of the sum over the whole batch, so one bad
    clip hides all others, and overflow; a widely copied "stable" version is wrong for more than one clip (it adds a
    column to a row). The authors' own code samples the pairs: that is `lsep_sampled`.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        ignore: (B, L), true where the truth is unknown: the label is in no pair.

    Returns:
        A scalar >= 0. A clip with no present or no absent label has no pair and adds exactly 0, and counts.

    Raises:
        ValueError: shapes differ.
    """
    # The double sum factorises into sum_n exp(l_n) * sum_p exp(-l_p), and softplus keeps log(1 + exp(z)) finite.
    clips = clips_of(logits, targets, ignore)
    absent = log_sum_exp_where(clips.logits, clips.absent)
    missed = log_sum_exp_where(-clips.logits, clips.present)
    return clips.mean_of_clips(F.softplus(absent + missed))


@LOSSES.register("lsep_sampled")
def lsep_sampled(
    logits: Tensor,
    targets: Tensor,
    *,
    num_pairs: int = 1000,
    generator: torch.Generator | None = None,
    ignore: Tensor | None = None,
) -> Tensor:
    """`lsep` over at most `num_pairs` pairs of each clip, drawn without replacement.

    Section 3.2 of the paper of `lsep`; a clip with fewer pairs uses all. As there, the sum is not scaled up to all
    pairs, so the value falls with `num_pairs`.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        num_pairs: >= 1.
        generator: a CPU generator of the draws; None is torch's own, which a run seeds and restores.
        ignore: (B, L), true where the truth is unknown: the label is in no pair.

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: shapes differ, or `num_pairs` is below 1.
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be >= 1, got {num_pairs}")
    clips = clips_of(logits, targets, ignore)
    pairs = draw_pairs(clips.present, clips.absent, num_pairs, generator)
    return clips.mean_of_clips(lsep_of_pairs(clips.logits, pairs))


def draw_pairs(present: Tensor, absent: Tensor, num_pairs: int, generator: torch.Generator | None = None) -> Tensor:
    """Return (B, T, 2) int64 pairs (absent, present), T the most that a clip has; the rest is padded with (0, 0).

    Each clip's pairs are a uniform draw without replacement of at most `num_pairs` of all its pairs.
    """
    rows = []
    for here, missing in zip(present.cpu(), absent.cpu(), strict=True):
        of_present, of_absent = here.nonzero()[:, 0], missing.nonzero()[:, 0]
        which = _distinct(len(of_present) * len(of_absent), num_pairs, generator)
        width = max(1, len(of_absent))
        rows.append(torch.stack([of_absent[which % width], of_present[which // width]], dim=1))  # (T, 2)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(present.device)  # (B, T, 2)


def _distinct(total: int, wanted: int, generator: torch.Generator | None) -> Tensor:
    """Return min(total, wanted) distinct numbers below `total`, without a list of all of them when they are many."""
    if total <= wanted:
        return torch.arange(total)
    if total <= 8 * wanted:
        return torch.randperm(total, generator=generator)[:wanted]
    chosen = torch.randint(total, (wanted,), generator=generator).unique()
    while len(chosen) < wanted:
        more = torch.randint(total, (wanted - len(chosen),), generator=generator)
        chosen = torch.cat([chosen, more]).unique()
    return chosen


def lsep_of_pairs(logits: Tensor, pairs: Tensor) -> Tensor:
    """Return log(1 + sum over the given pairs of exp(logit_absent - logit_present)) of each clip, (B,).

    Args:
        logits: (B, L).
        pairs: (B, T, 2) label numbers (absent, present); a pair of one label with itself is padding.
    """
    difference = logits.gather(1, pairs[..., 0]) - logits.gather(1, pairs[..., 1])  # (B, T)
    return F.softplus(log_sum_exp_where(difference, pairs[..., 0] != pairs[..., 1]))


@LOSSES.register("wlsep")
def wlsep(logits: Tensor, targets: Tensor, *, weight: Tensor | None = None, ignore: Tensor | None = None) -> Tensor:
    """Mean over all present labels p of the batch of w_p log(1 + sum over the clip's absent n of exp(l_n - l_p)).

    Paper: Monfort et al. Multi-Moments in Time: Learning and Interpreting Models for Multi-Action Video Understanding.
    arXiv:1911.00232, section 4. Their weights are min(count) / count. Unlike `lsep`, every present label has a
    logarithm of its own, and clips count by their number of labels.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        weight: (L,) factor of each label; the mean is not divided by it.
        ignore: (B, L), true where the truth is unknown.

    Returns:
        A scalar >= 0; 0 when no clip has a present label. A clip that has no absent label adds 0, and counts.

    Raises:
        ValueError: shapes differ.
    """
    clips = clips_of(logits, targets, ignore)
    absent = log_sum_exp_where(clips.logits, clips.absent)[:, None]  # (B, 1)
    losses = F.softplus(absent - clips.logits)
    factor = per_label("weight", weight, clips.logits)
    if factor is not None:
        losses = losses * factor
    return (losses * clips.present).sum() / clips.present.sum().clamp(min=1)


@LOSSES.register("lsep_threshold")
def lsep_threshold(
    thresholds: Tensor,
    targets: Tensor,
    *,
    scores: Tensor | None = None,
    scale: float = 1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(score - threshold): trains a threshold of each label and clip, not the scores.

    Paper: as `lsep`, section 3.3. The first argument is what is trained, the output of the threshold head; a label is
    present when its score exceeds its threshold. No gradient reaches `scores`. The paper sums over labels
    (`scale` = L); the default is the mean over the known pairs.

    Args:
        thresholds: (B, L), any real number.
        targets: (B, L), 1 where the label is present and 0 where it is absent.
        scores: (B, L) scores of the ranking model; None is 0 for every label.
        scale: factor on the mean, > 0.
        ignore: (B, L), true where the truth is unknown.

    Returns:
        A scalar >= 0; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ, or `scale` is out of its range.
    """
    if scores is not None and scores.shape != thresholds.shape:
        raise ValueError(
            f"scores must have the shape of the thresholds {tuple(thresholds.shape)}, got {tuple(scores.shape)}"
        )
    thresholds = thresholds.float() if thresholds.dtype in (torch.float16, torch.bfloat16) else thresholds
    above = -thresholds if scores is None else scores.detach().to(thresholds) - thresholds
    return bce(above, targets, scale=scale, ignore=ignore)
