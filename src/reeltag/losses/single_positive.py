"""Training on clips of which one or a few labels are confirmed and none is denied."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES
from reeltag.losses.clips import clips_of


@LOSSES.register("single_positive")
def single_positive(
    logits: Tensor, targets: Tensor, *, negative_weight: float | None = None, ignore: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy in which labels that were not observed are weak negatives of weight `negative_weight`.

    Mean over the known pairs of -(z log p + c (1 - z) log(1 - p)), z = 1 where the label was observed.

    Paper: Cole et al. Multi-Label Learning from Single Positive Labels. CVPR 2021, arXiv:2106.09708, section 4. The
    default c = 1 / (L - 1) is its "weak assume negative": the one observed label weighs as much as all others.
    `negative_weight` = 1 is "assume negative", the same number as `bce`, and with `bce`'s smoothing its smoothed form.

    Args:
        logits: (B, L), any real number.
        targets: (B, L), 1 where the label was observed and 0 where nothing is known.
        negative_weight: c >= 0; None is 1 / (L - 1).
        ignore: (B, L), true for a pair that shall not even be a weak negative.

    Returns:
        A scalar >= 0; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ, or `negative_weight` is negative.
    """
    if negative_weight is not None and negative_weight < 0:
        raise ValueError(f"negative_weight must be >= 0, got {negative_weight}")
    clips = clips_of(logits, targets, ignore)
    weak = 1 / max(1, logits.shape[1] - 1) if negative_weight is None else negative_weight
    observed = clips.targets * F.softplus(-clips.logits)
    return clips.mean_of_pairs(observed + weak * (1 - clips.targets) * F.softplus(clips.logits))
