"""What layers over frames share: the mask, sums and maxima that see real frames alone, and norms in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PUBLISHED_BN_EPS = 1e-3  # of every batch norm in the YouTube-8M code; PyTorch's own default is 1e-5
MIN_NORM = 1e-6  # the published code divides by sqrt(max(sum of squares, 1e-12))


class FramePooling(nn.Module, ABC):
    """A layer that turns the frames of a clip into one vector of `out_features` values.

    Every one keeps four promises: a frame whose mask is False never changes a result, in training as in evaluation,
    whatever it holds; a clip without any real frame gives finite values; clips of a batch do not mix in evaluation;
    sums, norms and softmaxes are taken in float32 under autocast.
    """

    out_features: int

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) features to (B, out_features); `mask` is (B, T), True = real frame, None = all are real."""


def widen(x: Tensor) -> Tensor:
    """Return the tensor in float32, or in float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def times(x: Tensor, by: Tensor) -> Tensor:
    """Multiply a tensor that the caller owns: in place where no gradient needs the old values."""
    return x * by if torch.is_grad_enabled() else x.mul_(by)


def frame_mask(x: Tensor, mask: Tensor) -> Tensor:
    """Check a mask (B, T) against features (B, T, ...) and return it with as many axes as they have.

    Raises:
        ValueError: the mask is not bool or its shape is not (B, T).
    """
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise ValueError(
            f"a mask is bool (B, T) with True = real frame; got {mask.dtype} {tuple(mask.shape)} for features "
            f"{tuple(x.shape)}: use `arange(T) < num_frames[:, None]`"
        )
    return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))


def without_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return (B, T, ...) features with zeros in place of padded frames, so that not even a NaN there survives.

    Args:
        x: (B, T, ...) features.
        mask: (B, T) bool, True = real frame; None returns `x` itself.

    Raises:
        ValueError: the mask is not bool or its shape is not (B, T).
    """
    return x if mask is None else x.masked_fill(~frame_mask(x, mask), 0)


def masked_sum(x: Tensor, mask: Tensor | None) -> Tensor:
    """Sum (B, T, ...) over the real frames in float32; 0 where a clip has none."""
    return widen(without_padding(x, mask)).sum(1)


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Average (B, T, ...) over the real frames in float32; 0 where a clip has none."""
    total = masked_sum(x, mask)
    if mask is None:
        return total / x.shape[1]
    return total / mask.sum(1).clamp(min=1).reshape(-1, *[1] * (total.ndim - 1))


def masked_max(x: Tensor, mask: Tensor | None) -> Tensor:
    """Largest value of (B, T, ...) over the real frames; 0 where a clip has none."""
    if mask is None:
        return x.amax(1)
    frames = frame_mask(x, mask)
    return x.masked_fill(~frames, float("-inf")).amax(1).masked_fill(~frames.any(1), 0)


def l2_normalize(x: Tensor, dim: int = -1) -> Tensor:
    """Divide by the Euclidean norm along `dim` in float32; norms below 1e-6 count as 1e-6, so zeros stay zeros."""
    x = widen(x)
    return x / torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp(min=MIN_NORM)


def real_frames_first(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Move the real frames of each clip to its front, in their order, and put zeros behind them.

    Args:
        x: (B, T, ...) features.
        mask: (B, T) bool; the real frames may stand anywhere.

    Returns:
        The moved features; (B,) the number of real frames; (B, T) the frame that each place was taken from.
    """
    if mask is None:
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        return x, torch.full((x.shape[0],), x.shape[1], device=x.device), places
    x = without_padding(x, mask)
    number = mask.sum(1)
    # Where each frame goes; turned round by a scatter, since ONNX knows no stable sort.
    goal = torch.where(mask, mask.cumsum(1), number.unsqueeze(1) + (~mask).cumsum(1)) - 1  # (B, T)
    places = torch.arange(mask.shape[1], device=x.device).expand(mask.shape)
    order = torch.zeros_like(goal).scatter(1, goal, places)
    # Not take_along_dim, whose broadcast binds a graph to one batch size.
    moved = x.gather(1, order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand(x.shape))
    return moved, number, order


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis whose statistics come from real frames alone.

    The published YouTube-8M code counts padded frames in; here padding must not change a result. `eps` is theirs (it
    changes numbers); `momentum` is PyTorch's 0.1 in place of their 0.001, which needs thousands of steps to settle.
    """

    def __init__(self, num_features: int, eps: float = PUBLISHED_BN_EPS, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise (B, D), or (B, T, D) with mask (B, T), in float32; padded frames come out as zeros in training."""
        if mask is None or not self.training:
            return super().forward(widen(input).reshape(-1, self.num_features)).view(input.shape)
        whole = input.new_zeros(input.shape, dtype=torch.promote_types(input.dtype, torch.float32))
        whole[mask] = super().forward(widen(input[mask]))
        return whole


def softmax_over_frames(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of (B, T, ...) over the real frames, float32; padded frames weigh 0, as all do in an empty clip."""
    if mask is None:
        return F.softmax(widen(scores), dim=1)
    frames = frame_mask(scores, mask)
    lowest = torch.finfo(torch.float32).min  # not -inf, which makes NaN of a clip without frames
    return F.softmax(widen(scores).masked_fill(~frames, lowest), dim=1).masked_fill(~frames, 0)
