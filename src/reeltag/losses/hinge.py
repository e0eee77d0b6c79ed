"""The hinge of every label on its own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES
from reeltag.losses.clips import clips_of


@LOSSES.register("hinge")
def hinge(
    logits: Tensor, targets: Tensor, *, margin: float = 1.0, scale: float = 1.0, ignore: Tensor | None = None
) -> Tensor:
    """Mean over the known pairs of max(0, margin - s logit), s = 1 for a present and -1 for an absent label.

    One linear support vector machine a label. The YouTube-8M code sums over labels and takes the mean over clips:
    `scale` = L.

    Args:
        logits: (B, L), any real number.
        targets: (B, L) in [0, 1]; a soft target gives s = 2 y - 1.
        margin: > 0.
        scale: factor on the mean, > 0.
        ignore: (B, L), true where the truth is unknown.

    Returns:
        A scalar >= 0; 0 when every pair is ignored.

    Raises:
        ValueError: shapes differ, or an option is out of its range.
    """
    if margin <= 0 or scale <= 0:
        raise ValueError(f"need margin > 0 and scale > 0, got {margin} and {scale}")
    clips = clips_of(logits, targets, ignore)
    return scale * clips.mean_of_pairs(F.relu(margin - (2 * clips.targets - 1) * clips.logits))
