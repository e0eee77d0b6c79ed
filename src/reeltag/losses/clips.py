"""What every loss reads: checked logits and truth in a wide enough dtype, and means that skip what is unknown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clips:
    """Logits and truth of B clips and L labels, checked once.

    Attributes:
        logits: (B, L) in float32 or wider; 0 where the truth is unknown, so that nothing there reaches the gradient.
        targets: (B, L) of the same dtype; 0 where the truth is unknown.
        known: (B, L) bool, or None where every pair is known.
    """

    logits: Tensor
    targets: Tensor
    known: Tensor | None

    @property
    def present(self) -> Tensor:
        """(B, L) bool: the label is known to be there; a soft target counts above 1/2."""
        return self.targets > 0.5

    @property
    def absent(self) -> Tensor:
        """(B, L) bool: the label is known not to be there."""
        return ~self.present if self.known is None else self.known & ~self.present

    def mean_of_pairs(self, losses: Tensor) -> Tensor:
        """Return the mean of (B, L) over the known pairs; 0 when there is none."""
        if self.known is None:
            return losses.mean()
        return (losses * self.known).sum() / self.known.sum().clamp(min=1)

    def mean_of_clips(self, losses: Tensor) -> Tensor:
        """Return the mean of (B,) over the clips with a known label; 0 when there is none."""
        if self.known is None:
            return losses.mean()
        return losses.sum() / self.known.any(dim=1).sum().clamp(min=1)

    def log_softmax(self) -> Tensor:
        """Return log softmax over the known labels, (B, L); 0 where the truth is unknown."""
        if self.known is None:
            return self.logits.log_softmax(dim=1)
        unknown = ~self.known
        return self.logits.masked_fill(unknown, float("-inf")).log_softmax(dim=1).masked_fill(unknown, 0)


def clips_of(logits: Tensor, targets: Tensor, ignore: Tensor | None) -> Clips:
    """Check the input of a loss and return it as `Clips`.

    Args:
        logits: (B, L), any real number; float16 and bfloat16 are widened to float32, since a sum over thousands of
            labels needs more than 8 bits.
        targets: (B, L) in [0, 1].
        ignore: (B, L), true where the truth is unknown; what stands there may be anything, NaN too.

    Raises:
        ValueError: shapes differ.
    """
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets must have one shape (B, L), got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if ignore is not None and ignore.shape != logits.shape:
        raise ValueError(f"ignore must have the shape of the logits {tuple(logits.shape)}, got {tuple(ignore.shape)}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    targets = targets.to(logits.dtype)
    if ignore is None:
        return Clips(logits, targets, None)
    unknown = ignore.bool()
    return Clips(logits.masked_fill(unknown, 0), targets.masked_fill(unknown, 0), ~unknown)


def log_sum_exp_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return log sum exp over the labels of a mask, (B,); -inf, and no gradient, where a clip has none."""
    return values.masked_fill(~mask, float("-inf")).logsumexp(dim=1)


def per_label(name: str, values: Tensor | None, logits: Tensor) -> Tensor | None:
    """Return an (L,) option in the dtype and on the device of the logits; ValueError for another shape."""
    if values is None:
        return None
    if values.shape != logits.shape[-1:]:
        raise ValueError(f"{name} must be ({logits.shape[-1]},), one per label, got {tuple(values.shape)}")
    return values.to(logits)
