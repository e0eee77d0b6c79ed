"""Inflation: a 2D network reaches into time, by whole filters or by a temporal filter behind each spatial one."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.temporal_shift import ClipLength

TimePadding = Literal["zeros", "replicate"]
Inflation = Literal["i3d", "p3d"]


def to_clips(frames: Tensor, num_frames: int) -> Tensor:
    """Return (B, C, T, H, W) of (B * T, C, H, W): a view, and in channels_last memory already channels_last_3d."""
    return frames.unflatten(0, (-1, num_frames)).transpose(1, 2)


def to_frames(clips: Tensor) -> Tensor:
    """Return (B * T, C, H, W) of (B, C, T, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


def _pad_time(clips: Tensor, frames: int, how: TimePadding) -> Tensor:
    mode = "constant" if how == "zeros" else "replicate"
    return F.pad(clips, (0, 0, 0, 0, frames, frames), mode=mode)


class InflatedConv(nn.Conv3d):
    """A 3D convolution at the place of a 2D one: its k x k filter repeated t times and divided by t.

    Paper: Carreira, Zisserman. Quo Vadis, Action Recognition? CVPR 2017, arXiv:1705.07750, section 2.4. A clip of
    identical frames gives the 2D layer's output, but for frames within t // 2 of an end when time is padded with zeros.

    Args:
        conv: the 2D convolution; its weights are copied.
        clip: where the frames a clip stand.
        time_kernel: t, odd.
        time_padding: what stands before the first and after the last frame.
    """

    def __init__(self, conv: nn.Conv2d, clip: ClipLength, time_kernel: int, time_padding: TimePadding) -> None:
        size, stride = _pair(conv.kernel_size), _pair(conv.stride)
        padding, dilation = _pair(conv.padding), _pair(conv.dilation)
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (time_kernel, *size),
            stride=(1, *stride),
            padding=(0 if time_padding == "replicate" else time_kernel // 2, *padding),
            dilation=(1, *dilation),
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.clip, self.time_padding = clip, time_padding
        with torch.no_grad():
            self.weight.copy_(conv.weight.unsqueeze(2).expand_as(self.weight) / time_kernel)
            if self.bias is not None and conv.bias is not None:
                self.bias.copy_(conv.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (B * T, C, h, w) of (B * T, C, H, W)."""
        clips = to_clips(frames, self.clip.num_frames)
        if self.time_padding == "replicate":
            clips = _pad_time(clips, self.kernel_size[0] // 2, "replicate")
        return to_frames(super().forward(clips))


class SeparableConv(nn.Module):
    """A 2D convolution, then one over t frames that starts as the identity: P3D's form A, or (2+1)D.

    Papers: Qiu, Yao, Mei. Pseudo-3D Residual Networks. ICCV 2017, arXiv:1711.10305; Tran et al. R(2+1)D. CVPR 2018,
    arXiv:1711.11248. There is neither norm nor ReLU between the two, so that the network starts as the 2D one exactly.

    Args:
        conv: the 2D convolution.
        clip: where the frames a clip stand.
        time_kernel: t, odd.
        time_padding: what stands before the first and after the last frame.
    """

    def __init__(self, conv: nn.Conv2d, clip: ClipLength, time_kernel: int, time_padding: TimePadding) -> None:
        super().__init__()
        self.spatial = conv
        width, groups = conv.out_channels, conv.groups
        self.temporal = nn.Conv3d(width, width, (time_kernel, 1, 1), groups=groups, bias=False)
        nn.init.dirac_(self.temporal.weight, groups)
        self.clip, self.time_padding = clip, time_padding

    def forward(self, frames: Tensor) -> Tensor:
        """Return (B * T, C, h, w) of (B * T, C, H, W)."""
        clips = to_clips(self.spatial(frames), self.clip.num_frames)
        return to_frames(self.temporal(_pad_time(clips, self.temporal.kernel_size[0] // 2, self.time_padding)))


def _pair(value: int | str | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, str):
        raise ValueError(f"a convolution with padding {value!r} cannot be inflated; take a network with numbers")
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class TimePool(nn.Module):
    """A layer of a 2D network, and behind it the maximum over every `stride` frames.

    Args:
        block: the layer.
        before: where the frames a clip stand up to here.
        after: where they are written for the layers behind.
        stride: frames merged into one; what is left over at the end is dropped.
    """

    def __init__(self, block: nn.Module, before: ClipLength, after: ClipLength, stride: int) -> None:
        super().__init__()
        self.block = block
        self.before, self.after, self.stride = before, after, stride

    def forward(self, frames: Tensor) -> Tensor:
        """Return (B * (T // stride), C, h, w) of (B * T, C, H, W)."""
        num_frames = self.before.num_frames
        if num_frames < self.stride:
            raise ValueError(
                f"{num_frames} frames are left here, and {self.stride} are merged into one: give more frames"
            )
        clips = to_clips(self.block(frames), num_frames)
        self.after.num_frames = num_frames // self.stride
        return to_frames(F.max_pool3d(clips, (self.stride, 1, 1)))


def inflate(
    net: nn.Module,
    clip: ClipLength,
    how: Inflation = "i3d",
    *,
    time_kernel: int | Mapping[str, int] = 3,
    time_padding: TimePadding = "zeros",
    time_strides: Mapping[str, int] | None = None,
) -> int:
    """Give the spatial convolutions (k > 1) of a 2D network a temporal extent; all else goes on frame by frame.

    The network still takes (B * T, C, H, W): batch norm over those is the batch norm of the 3D network, pools keep
    every frame, and squeeze-and-excitation looks at one frame at a time.

    Args:
        net: changed in place; its weights are those it starts from.
        clip: where the model writes the frames a clip before each forward pass.
        how: `i3d` (filters repeated over time) or `p3d` (a temporal filter behind each spatial one).
        time_kernel: t, odd; or t by pattern of the convolutions' names (`{"conv1": 5, "layer?.*.conv1": 3}`; the first
            that matches counts), which then may also be 1 x 1, and the others stay as they are.
        time_padding: see `InflatedConv`.
        time_strides: names of layers behind which the frames are max-pooled, with the stride (`{"layer1": 2}`); the
            network's layers must stand in the order in which they run, as those of ResNets do.

    Returns:
        The number of convolutions that changed.

    Raises:
        ValueError: an even kernel, an unknown form, a name that the network has not, or a network without plain spatial
            convolutions.
    """
    if how not in ("i3d", "p3d") or time_padding not in ("zeros", "replicate"):
        raise ValueError(f"inflation is i3d or p3d, padding zeros or replicate; got {how!r}, {time_padding!r}")
    form = InflatedConv if how == "i3d" else SeparableConv
    strides = dict(time_strides or {})
    kernels, (lengths, behind) = _kernels(net, time_kernel), _lengths(net, clip, strides)
    for path, size in kernels.items():
        conv: Any = net.get_submodule(path)
        _replace(net, path, form(conv, lengths[path], size, time_padding).to(conv.weight.device))
    for path, stride in strides.items():
        _replace(net, path, TimePool(net.get_submodule(path), lengths[path], behind[path], stride))
    return len(kernels)


def _replace(net: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, layer)


def _kernels(net: nn.Module, time_kernel: int | Mapping[str, int]) -> dict[str, int]:
    """Return t by the path of each convolution that changes."""
    convs = {path: conv for path, conv in net.named_modules() if type(conv) is nn.Conv2d}
    if isinstance(time_kernel, int):
        chosen = {path: time_kernel for path, conv in convs.items() if max(conv.kernel_size) > 1}
        if not chosen:
            raise ValueError(
                f"{type(net).__name__} has no plain spatial convolution to inflate; take one such as resnet50"
            )
    else:
        idle = [pattern for pattern in time_kernel if not any(fnmatchcase(path, pattern) for path in convs)]
        if idle:
            raise ValueError(f"time_kernel: no convolution of {type(net).__name__} is called {', '.join(idle)}")
        chosen = {}
        for path in convs:
            size = next((size for pattern, size in time_kernel.items() if fnmatchcase(path, pattern)), None)
            if size is not None:
                chosen[path] = size
    even = sorted({size for size in chosen.values() if size < 1 or size % 2 == 0})
    if even:
        raise ValueError(f"time_kernel must be odd, got {even[0]}")
    return chosen


def _lengths(
    net: nn.Module, clip: ClipLength, strides: Mapping[str, int]
) -> tuple[dict[str, ClipLength], dict[str, ClipLength]]:
    """Return where each layer reads the frames a clip, by path, and where each pool writes those behind it.

    Several places, not one: a block that is recomputed in the backward pass must still find its own number.
    """
    known = dict(net.named_modules())
    for path, stride in strides.items():
        if not path or path not in known or stride < 1:
            raise ValueError(
                f"time_strides: {path!r} must be a layer of {type(net).__name__}, its stride {stride} >= 1"
            )
    lengths: dict[str, ClipLength] = {}
    behind: dict[str, ClipLength] = {}
    current, inside = clip, ""
    for path in known:
        if inside and not path.startswith(f"{inside}."):
            current, inside = behind[inside], ""
        lengths[path] = current
        if path in strides:
            if inside:
                raise ValueError(f"time_strides: {path!r} lies within {inside!r}; keep one")
            inside, behind[path] = path, ClipLength()
    return lengths, behind
