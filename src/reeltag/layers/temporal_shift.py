"""The temporal shift of TSM: channels move to the neighbouring frames, at no multiplication and no parameter."""

from __future__ import annotations

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
        (B*T, C, H, W), a new tensor; channels from 2 * int(C * fraction) on are copied unchanged.

    Raises:
        ValueError: B*T is not a multiple of `num_frames`, or `fraction` is outside (0, 1/2].
    """
    if x.shape[0] % num_frames:
        raise ValueError(f"{x.shape[0]} frames cannot be split into clips of {num_frames}")
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction is the share moved each way and must be in (0, 1/2], got {fraction}")
    clips = x.unflatten(0, (-1, num_frames))  # (B, T, C, H, W)
    fold = int(clips.shape[2] * fraction)
    shifted = clips.clone()
    shifted[:, :, : 2 * fold] = 0
    shifted[:, :-1, :fold] = clips[:, 1:, :fold]
    shifted[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    return shifted.flatten(0, 1)


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
        if not 0 < fraction <= 0.5:
            raise ValueError(f"fraction is the share moved each way and must be in (0, 1/2], got {fraction}")
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
