"""Binary cross-entropy of every label on its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reeltag.losses import LOSSES


@LOSSES.register("bce")
def bce(
    logits: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    weight: Tensor | None = None,
    ignore: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean over the known pairs of -w_l (y log p + (1 - y) log(1 - p)), times `scale`, with p = sigmoid(logit).

    The mean runs over clips and labels. With `scale` = L it is the sum over labels and the mean over clips; entries to
    Multi-Moments in Time used 160 (arXiv:2003.05837).

    Args:
        logits: (B, L), any real number.
        targets: (B, L) in [0, 1]; soft targets are allowed.
        scale: factor on the mean, > 0.
        weight: (L,) factor of each label, on its present and absent clips alike; the mean is not divided by it.
        ignore: (B, L), true where the truth is unknown; such a pair adds nothing to the sum or the count.
        smoothing: s in [0, 1); targets become y (1 - s) + s / 2.

    Returns:
        A scalar >= 0 in float32 or the wider dtype of the logits; exactly 0, with zero
        gradient, when every pair is ignored.

    Raises:
        ValueError: shapes differ, or `scale` or `smoothing` is out of its range.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits and targets must have one shape (B, L), got {logits.shape} and {targets.shape}")
    if scale <= 0 or not 0 <= smoothing < 1:
        raise ValueError(f"need scale > 0 and smoothing in [0, 1), got {scale} and {smoothing}")
    if weight is not None and weight.shape != logits.shape[-1:]:
        raise ValueError(f"weight must be ({logits.shape[-1]},), one per label, got {tuple(weight.shape)}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a mean over thousands of pairs needs more than 8 bits
    targets = targets.to(logits.dtype)
    if ignore is not None:
        known = ~ignore.bool()
        # Zeros before the logarithm: a NaN in an ignored place must not reach the gradient through 0 x NaN.
        logits, targets = logits.masked_fill(~known, 0), targets.masked_fill(~known, 0)
    if smoothing:
        targets = targets * (1 - smoothing) + smoothing / 2
    if ignore is None:
        return scale * F.binary_cross_entropy_with_logits(logits, targets, weight=weight)
    losses = F.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction="none") * known
    return scale * losses.sum() / known.sum().clamp(min=1)
