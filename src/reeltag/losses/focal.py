"""Focal and asymmetric losses: binary cross-entropy that turns away from what is already right."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES
from reeltag.losses.clips import clips_of


@LOSSES.register("focal")
def focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    scale: float = 1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Mean over the known pairs of -a (1 - p)^gamma log p, p the probability given to the truth, times `scale`.

    Paper: Lin, Goyal, Girshick, He, Dollar. Focal Loss for Dense Object Detection. ICCV 2017, arXiv:1708.02002,
    equations 4 and 5. a = 1 without `alpha`; with it a = alpha on present labels and 1 - alpha on absent ones.
    Departure: the paper divides by the number of objects; here the mean is over all pairs. A soft target mixes the
    terms of present and absent, where torchvision mixes the probabilities first; on 0 and 1 both are one formula.

    Public versions: torchvision's has alpha 0.25 and no mean by default; a widely copied one clamps p to
    [1e-7, 1 - 1e-7], which stops the gradient of labels that are confidently wrong. Here the power is taken of
    exp(log sigmoid), so the gradient is finite for any gamma >= 0 and any logit.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) in [0, 1].
        gamma: focus, >= 0; 0 is binary cross-entropy.
        alpha: balance in [0, 1], or None for none; the paper's best with gamma 2 is 0.25.
        scale: factor on the mean, > 0; L gives the sum over labels and the mean over clips.
        ignore: (B, L), true where the truth is unknown.

    Returns:
        A scalar >= 0; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ, or an option is out of its range.
    """
    if gamma < 0 or scale <= 0 or (alpha is not None and not 0 <= alpha <= 1):
        raise ValueError(f"need gamma >= 0, scale > 0 and alpha in [0, 1] or None, got {gamma}, {scale} and {alpha}")
    clips = clips_of(logits, targets, ignore)
    found, missed = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    of_present = found * _focused(clips.logits, gamma)
    of_absent = missed * _focused(-clips.logits, gamma)
    return scale * clips.mean_of_pairs(clips.targets * of_present + (1 - clips.targets) * of_absent)


def _focused(logits: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^gamma log p of p = sigmoid(logits)."""
    return torch.exp(gamma * F.logsigmoid(-logits)) * F.softplus(-logits)


@LOSSES.register("asymmetric")
def asymmetric(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_present: float = 0.0,
    gamma_absent: float = 4.0,
    margin: float = 0.05,
    scale: float = 1.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Focal loss with a focus of its own for absent labels, whose probability is first lowered by a margin.

    Present: -(1 - p)^gamma_present log p. Absent, with q = max(p - margin, 0): -q^gamma_absent log(1 - q), so absent
    labels below the margin add nothing. Mean over the known pairs, times `scale`.

    Paper: Ridnik et al. Asymmetric Loss For Multi-Label Classification. ICCV 2021, arXiv:2009.14119, section 2.3.

    Public versions: the authors' code sums over labels and clips (so does `scale` = B x L), has gamma_present 1 by
    default, clamps inside the logarithm at 1e-8, which stops the gradient of present labels below that, and by default
    holds the focus factor constant; here the gradient is that of the formula.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) in [0, 1]; a soft target mixes the two terms.
        gamma_present: focus of present labels, >= 0.
        gamma_absent: focus of absent labels, >= 0.
        margin: in [0, 1).
        scale: factor on the mean, > 0.
        ignore: (B, L), true where the truth is unknown.

    Returns:
        A scalar >= 0; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ, or an option is out of its range.
    """
    if min(gamma_present, gamma_absent) < 0 or not 0 <= margin < 1 or scale <= 0:
        raise ValueError(
            f"need gamma_present and gamma_absent >= 0, margin in [0, 1) and scale > 0, "
            f"got {gamma_present}, {gamma_absent}, {margin} and {scale}"
        )
    clips = clips_of(logits, targets, ignore)
    of_present = _focused(clips.logits, gamma_present)
    if margin:
        kept = torch.sigmoid(-clips.logits) + margin  # 1 - q, where below 1
        free = kept >= 1
        # A value inside (0, 1) stands where nothing is lost: the slope of a power at 0 may be infinite.
        kept = kept.masked_fill(free, 0.5)
        of_absent = (-((1 - kept) ** gamma_absent) * kept.log()).masked_fill(free, 0)
    else:
        of_absent = _focused(-clips.logits, gamma_absent)
    return scale * clips.mean_of_pairs(clips.targets * of_present + (1 - clips.targets) * of_absent)
