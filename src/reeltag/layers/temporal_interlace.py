"""The interlacing of TIN: groups of channels move along time by offsets that the features themselves decide."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS

_OFFSETS = 2  # learned offsets; each group with an offset has a twin that moves the other way
_GROUPS = 2 * _OFFSETS
_FIRST_OFFSET_LOGIT = 0.5108  # 4 * (sigmoid - 1/2) = 1/2 frame


@LAYERS.register("temporal_interlace")
class TemporalInterlace(nn.Module):
    """Shift four groups of channels by learned, fractional offsets, and weigh each frame of each group.

    Paper: Shao, Qian, Liu. Temporal Interlacing Network. AAAI 2020, arXiv:2001.06499, sections 3.1 to 3.3. From the
    spatial mean of the first C / shift_div channels an offset network draws two offsets a clip, in (-2, 2) frames, and
    a weight network two weights a frame, in (0, 2). The groups move by g0, g1, -g0, -g1; a positive offset delays. The
    value between two frames is their linear mix, frames outside the clip are zero, and the weight is that of the frame
    moved to. The gradient of an offset is that of the mix; its whole part has none, as in the published code.

    Args:
        channels: C of the input.
        num_frames: T, which the offset network is made for.
        shift_div: the first C / shift_div channels take part, rounded down to a multiple of 4; the others pass.

    Raises:
        ValueError: the sizes do not fit.
    """

    def __init__(self, channels: int, num_frames: int = 8, shift_div: int = 4) -> None:
        super().__init__()
        if num_frames < 1 or shift_div < 1:
            raise ValueError(f"num_frames and shift_div must be at least 1, got {num_frames} and {shift_div}")
        self.folded = channels // shift_div // _GROUPS * _GROUPS
        if not self.folded:
            raise ValueError(
                f"{channels} channels / shift_div {shift_div} do not give each of {_GROUPS} groups a channel; take a "
                "smaller shift_div"
            )
        self.num_frames = num_frames
        self.offset_net = OffsetNet(self.folded, num_frames)
        self.weight_net = WeightNet(self.folded)

    def forward(self, x: Tensor) -> Tensor:
        """Interlace (B*T, C, H, W) features of B clips; the T frames of a clip are adjacent."""
        if x.ndim != 4 or x.shape[0] % self.num_frames:
            raise ValueError(
                f"interlacing takes (B*T, C, H, W) with T = {self.num_frames} frames a clip, got {tuple(x.shape)}"
            )
        moving, staying = x.split([self.folded, x.shape[1] - self.folded], 1)
        clips = moving.permute(0, 2, 3, 1).unflatten(0, (-1, self.num_frames))  # (B, T, H, W, C')
        with _full_precision(x.device.type):  # bfloat16 would round offsets to 1/128 frame
            exact = torch.promote_types(x.dtype, torch.float32)
            descriptor = clips.flatten(2, 3).mean(2, dtype=exact).transpose(1, 2)  # (B, C', T)
            descriptor = descriptor.to(self.weight_net.conv.weight.dtype)
            offsets, weights = self.offset_net(descriptor), self.weight_net(descriptor)
            mix = interlacing_matrix(
                torch.cat((offsets, -offsets), 1), torch.cat((weights, weights), 2)
            )  # (B, groups, T, T)
            groups = clips.unflatten(-1, (_GROUPS, -1))  # (B, T, H, W, groups, C' / groups)
            moved = torch.einsum("bgtu,buhwgc->bthwgc", mix.to(x.dtype), groups)
        moved = moved.flatten(-2).flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, C', H, W)
        return torch.cat((moved, staying), 1)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    # The meta device, on which shapes are counted, has no autocast to switch off.
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


class OffsetNet(nn.Module):
    """From (B, C', T) descriptors to (B, 2) offsets in (-2, 2) frames; they start at 1/2 but for the drawn weights."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 1, 3, padding=1)
        self.fc1 = nn.Linear(num_frames, num_frames)
        self.fc2 = nn.Linear(num_frames, _OFFSETS)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.fc2.bias, _FIRST_OFFSET_LOGIT)

    def forward(self, descriptor: Tensor) -> Tensor:
        """Return (B, 2)."""
        x = self.conv(descriptor).squeeze(1)  # (B, T)
        return 4 * (self.fc2(self.fc1(x).relu()).sigmoid() - 0.5)


class WeightNet(nn.Module):
    """From (B, C', T) descriptors to (B, T, 2) weights in (0, 2); they start around 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, _OFFSETS, 3, padding=1)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, descriptor: Tensor) -> Tensor:
        """Return (B, T, 2)."""
        return 2 * self.conv(descriptor).transpose(1, 2).sigmoid()


def interlacing_matrix(offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the linear map along time that shifts by `offsets` and weighs by `weights`.

    Args:
        offsets: (B, G) frames; a positive one delays.
        weights: (B, T, G), of the frames that the values move to.

    Returns:
        (B, G, T, T): entry [b, g, t, u] is what frame t takes of frame u. Each row has at most two entries, so this
        small matrix stands for both shifts and their mix; frames outside the clip have no column and are zero.
    """
    times = torch.arange(weights.shape[1], device=weights.device)
    delay = times[:, None] - times  # (T, T)
    whole = offsets.floor().detach()[..., None, None]
    part = offsets[..., None, None] - whole
    mix = (1 - part) * (delay == whole) + part * (delay == whole + 1)  # (B, G, T, T)
    return weights.transpose(1, 2).unsqueeze(-1) * mix


class Interlaced(nn.Module):
    """A layer of a 2D backbone that sees its input interlaced in time."""

    def __init__(self, net: nn.Module, interlace: TemporalInterlace) -> None:
        super().__init__()
        self.interlace = interlace
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Interlace (B*T, C, H, W), then apply the wrapped layer."""
        return self.net(self.interlace(x))
