"""The temporal shift of TSM: channels move to the neighbouring frames, at no multiplication and no parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS


def temporal_shift(x: Tensor, num_frames: int, fraction: float = 1 / 8) -> Tensor:
    """Move one slice of channels to the previous frame and a second slice to the next frame.

    Paper: Lin, Gan, Han. TSM: Temporal Shift Module for Efficient Video Understanding. ICCV 2019, arXiv:1811.08383,
    section 3. As there, the first and last frame read zeros where they have no neighbour.

    Args:
        x: (B*T, C, H, W) features of B clips; the T frames of a clip are adjacent.
        num_frames: T, the frames per clip.
        fraction: share of C moved in *each* direction, in (0, 1/2]; the paper's best is 1/8.

    Returns:
        (B*T, C, H, W), a new tensor in the memory order of `x`; channels from 2 * int(C * fraction) on are copied.

    Raises:
        ValueError: B*T is not a multiple of `num_frames`, or `fraction` is outside (0, 1/2].
    """
    if x.shape[0] % num_frames:
        raise ValueError(f"{x.shape[0]} frames cannot be split into clips of {num_frames}")
    _check(fraction)
    fold = int(x.shape[1] * fraction)
    shifted: Tensor = _Shift.apply(x.unflatten(0, (-1, num_frames)), fold, 1)
    return shifted.flatten(0, 1)


def shift_as_kernel(kernel: Tensor, fraction: float = 1 / 8) -> Tensor:
    """Return the 3D kernel that does what `temporal_shift` and then a 2D kernel do.

    A convolution with it, padded by one frame, is TSM's step written as a step of R3D: each input channel has one tap
    in time that is not zero, on the frame that the shift would have brought.

    Args:
        kernel: (out, C, kh, kw), a 2D convolution's.
        fraction: share of C moved in each direction, in (0, 1/2].

    Returns:
        (out, C, 3, kh, kw).

    Raises:
        ValueError: `fraction` is outside (0, 1/2].
    """
    _check(fraction)
    fold = int(kernel.shape[1] * fraction)
    whole = kernel.new_zeros(*kernel.shape[:2], 3, *kernel.shape[2:])
    whole[:, :fold, 2] = kernel[:, :fold]  # reads frame t + 1
    whole[:, fold : 2 * fold, 0] = kernel[:, fold : 2 * fold]  # reads frame t - 1
    whole[:, 2 * fold :, 1] = kernel[:, 2 * fold :]
    return whole


def _check(fraction: float) -> None:
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction is the share moved each way and must be in (0, 1/2], got {fraction}")


class _Shift(torch.autograd.Function):
    """The shift and, as its gradient, the shift the other way.

    Autograd's own gradient of the slice copies below takes ten times as long: it clones the map for each of them.
    """

    @staticmethod
    def forward(clips: Tensor, fold: int, direction: int) -> Tensor:
        ahead, back = slice(1, None), slice(None, -1)
        to, taken, edge = (back, ahead, -1) if direction > 0 else (ahead, back, 0)
        shifted = clips.clone()  # (B, T, C, H, W)
        shifted[:, to, :fold] = clips[:, taken, :fold]
        shifted[:, edge, :fold] = 0
        shifted[:, taken, fold : 2 * fold] = clips[:, to, fold : 2 * fold]
        shifted[:, -1 - edge, fold : 2 * fold] = 0
        return shifted

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        _, ctx.fold, ctx.direction = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Shift.apply(gradients[0], ctx.fold, -ctx.direction), None, None


class ClipLength:
    """The frames per clip of the batch in flight; a model sets it, the layers inside a 2D backbone read it."""

    def __init__(self) -> None:
        self.num_frames = 1


@LAYERS.register("temporal_shift")
class TemporalShift(nn.Module):
    """A layer of a 2D backbone that sees its input shifted in time, as the published code wraps it.

    Args:
        net: the wrapped layer (the first convolution of a residual branch); it keeps its place in the state dict
            under `.net`, the name of the published checkpoints.
        clip: where the frames per clip stand; a fresh one means one frame, which shifts nothing but zeros in.
        fraction: share of channels moved each way, in (0, 1/2].
    """

    def __init__(self, net: nn.Module | None = None, clip: ClipLength | None = None, fraction: float = 1 / 8) -> None:
        super().__init__()
        _check(fraction)
        self.net = net or nn.Identity()
        self.clip = clip or ClipLength()
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        """Shift (B*T, C, H, W), or tokens (B*T, N, C) along their last axis, then apply the wrapped layer."""
        if x.ndim == 3:
            tokens = x.transpose(1, 2).unsqueeze(-1)  # (B*T, C, N, 1)
            shifted = temporal_shift(tokens, self.clip.num_frames, self.fraction)
            return self.net(shifted.squeeze(-1).transpose(1, 2))
        return self.net(temporal_shift(x, self.clip.num_frames, self.fraction))
