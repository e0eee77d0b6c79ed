"""Parts of the video networks that grew from ResNet-50: stem, bottleneck with a temporal kernel, stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers import LAYERS
from reeltag.layers.temporal_shift import temporal_shift

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
EXPANSION = 4
_HALF_REGISTER = 8  # channels: half of what a 512-bit register holds in float32
_FEW_PLACES, _MANY_WEIGHTS = 512, 1 << 20

# Frames seen by the first convolution of each block, by stage: the lengths of the inner tuples are the depths.
Kernels = Sequence[Sequence[int]]
# From the channels of a stage to a layer of the same shape, put behind some of its blocks.
LayerFactory = Callable[[int], nn.Module]


def check_kernels(kernels: Kernels) -> None:
    """Raise ValueError unless there are stages, each has a block, and all temporal kernels are odd."""
    if not kernels or not all(kernels):
        raise ValueError(f"temporal kernels are one list a stage, with one entry a block; got {kernels}")
    even = [size for stage in kernels for size in stage if size < 1 or size % 2 == 0]
    if even:
        raise ValueError(f"temporal kernels are odd (1, 3, 5), got {even[0]}")


def layer_factory(name: str, options: Mapping[str, Any] | None) -> LayerFactory:
    """Return what builds the registered layer `name` from its channels; an option that it does not take is an error."""
    LAYERS.check(name, options or {})

    def build(channels: int) -> nn.Module:
        layer = LAYERS.build(name, channels=channels, **(options or {}))
        if not isinstance(layer, nn.Module):
            raise ValueError(f"{name!r} is not a layer of channels")
        return layer

    return build


class Stem(nn.Module):
    """Convolution (k, 7, 7), batch norm, ReLU and a max-pool (1, 3, 3), both with stride 2 in space.

    Args:
        in_channels: channels of a frame.
        width: output channels.
        kernel: frames seen, odd.
        time_strides: temporal strides of the convolution and of the pool.
        pool_padding: pixels of padding around the pool; 1, or 0 as in the original Caffe2 networks.
    """

    def __init__(
        self, in_channels: int, width: int, kernel: int, time_strides: Sequence[int] = (1, 1), pool_padding: int = 1
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"the stem's temporal kernel is odd (1, 3, 5), got {kernel}")
        first, second = time_strides
        padding = (kernel // 2, 3, 3)
        self.conv = nn.Conv3d(in_channels, width, (kernel, 7, 7), (first, 2, 2), padding, bias=False)
        self.bn = nn.BatchNorm3d(width)
        self.pool_stride = second
        self.pool_padding = pool_padding

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, t, H / 4, W / 4)."""
        narrow = self.conv.out_channels <= _HALF_REGISTER and self.conv.stride[0] == 1 and x.shape[2] % 2 == 0
        y = two_frames_at_once(x, self.conv) if narrow and _on_this_cpu(x) else self.conv(x)
        x = F.relu(self.bn(y), inplace=True)
        padding = (0, self.pool_padding, self.pool_padding)
        return F.max_pool3d(x, (1, 3, 3), (self.pool_stride, 2, 2), padding)


def _on_this_cpu(x: Tensor) -> bool:
    """Whether a form that is faster on a CPU may be chosen by size: not in an exported graph, which has any size."""
    return x.device.type == "cpu" and not torch.compiler.is_exporting()


def two_frames_at_once(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Return what `conv` gives (no bias, temporal stride 1, even T), by a convolution that makes frames in pairs.

    CPUs compute 16 output channels in the time of 8: with a kernel one frame longer, whose second half of outputs is
    one frame later, half as many steps are taken. For SlowFast's fast stem that is 0.6 of the time.
    """
    front, back = ((0, 0, 0, 0, *pad) for pad in ((0, 1), (1, 0)))
    kernel = torch.cat((F.pad(conv.weight, front), F.pad(conv.weight, back)))  # (2 C, in, k + 1, 7, 7)
    _, height, width = conv.stride
    pairs = F.conv3d(x, kernel, None, (2, height, width), conv.padding)  # (B, 2 C, T / 2, h, w)
    frames = pairs.permute(0, 2, 3, 4, 1).unflatten(4, (2, -1)).permute(0, 1, 4, 2, 3, 5)  # (B, T / 2, 2, h, w, C)
    return frames.flatten(1, 2).permute(0, 4, 1, 2, 3)


def over_time(x: Tensor, conv: nn.Conv3d) -> Tensor:
    """Return what a convolution (k, 1, 1) of stride 1 without bias gives; over few places, by one matrix product.

    A convolution on a CPU puts its weights into its own order in each call, which is most of the work when there are
    more weights than places: the last stage of a few clips at 112 px.
    """
    frames, reach = x.shape[2], conv.kernel_size[0] // 2
    few = _on_this_cpu(x) and x.shape[0] * x.shape[2:].numel() <= _FEW_PLACES
    if not few or conv.weight.numel() < _MANY_WEIGHTS:
        y: Tensor = conv(x)
        return y
    rows = x.permute(0, 2, 3, 4, 1)  # (B, T, H, W, C)
    if reach:
        padded = F.pad(rows, (0, 0, 0, 0, 0, 0, reach, reach))
        rows = torch.cat([padded[:, start : start + frames] for start in range(conv.kernel_size[0])], 4)
    matrix = conv.weight.flatten(2).transpose(1, 2).flatten(1)  # (out, k * C)
    return F.linear(rows, matrix).permute(0, 4, 1, 2, 3)


class Bottleneck3D(nn.Module):
    """Convolutions (k, 1, 1), (1, 3, 3) with the spatial stride, and 1x1x1, with a shortcut.

    Args:
        in_width: input channels.
        inner: channels of the first two convolutions; the output has four times as many.
        kernel: frames seen by the first convolution, odd.
        stride: spatial stride.
        shift: share of the branch's input channels moved each way in time (TSM, arXiv:1811.08383); the shortcut sees
            the input unshifted, as in its residual form.
    """

    def __init__(self, in_width: int, inner: int, kernel: int = 1, stride: int = 1, shift: float = 0.0) -> None:
        super().__init__()
        width = EXPANSION * inner
        if not 0 <= shift <= 0.5:
            raise ValueError(f"shift is the share of channels moved each way, 0 to 1/2, got {shift}")
        self.shift = shift
        self.conv1 = nn.Conv3d(in_width, inner, (kernel, 1, 1), 1, (kernel // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = nn.Conv3d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            shortcut = nn.Conv3d(in_width, width, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * inner, T, H / stride, W / stride) of (B, in_width, T, H, W)."""
        y = shift_in_time(x, self.shift) if self.shift else x
        y = F.relu(self.bn1(over_time(y, self.conv1)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(over_time(y, self.conv3))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


def shift_in_time(x: Tensor, fraction: float) -> Tensor:
    """Return (B, C, T, H, W) with channels moved to the neighbouring frames, as `temporal_shift` does for 2D networks.

    A clip in channels_last_3d order stays in it: frames and clips are merged and parted as views.
    """
    frames = x.transpose(1, 2)  # (B, T, C, H, W)
    shifted = temporal_shift(frames.flatten(0, 1), x.shape[2], fraction)
    return shifted.unflatten(0, frames.shape[:2]).transpose(1, 2)


class Stage(nn.Module):
    """Bottlenecks of one width; the first has the spatial stride, further layers may stand behind any of them.

    Args:
        in_width: input channels.
        inner: see `Bottleneck3D`.
        kernels: temporal kernel of each block.
        stride: spatial stride of the first block.
        shift: see `Bottleneck3D`; for every block.
        after: blocks (counted from 0) behind which a non-local layer stands.
        layer: builds that layer from the stage's output channels.
    """

    def __init__(
        self,
        in_width: int,
        inner: int,
        kernels: Sequence[int],
        stride: int,
        *,
        shift: float = 0.0,
        after: Sequence[int] = (),
        layer: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        if any(not 0 <= index < len(kernels) for index in after):
            raise ValueError(f"non-local layers stand behind blocks 0 to {len(kernels) - 1} of a stage, got {after}")
        self.out_width = EXPANSION * inner
        self.blocks = nn.ModuleList(
            Bottleneck3D(self.out_width if index else in_width, inner, kernel, 1 if index else stride, shift)
            for index, kernel in enumerate(kernels)
        )
        self.nonlocals = nn.ModuleDict()
        if layer is not None:
            self.nonlocals.update({str(index): layer(self.out_width) for index in sorted(after)})

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * inner, T, H / stride, W / stride)."""
        for index, block in enumerate(self.blocks):
            x = block(x)
            if str(index) in self.nonlocals:
                x = self.nonlocals[str(index)](x)
        return x

    def parts(self) -> list[nn.Module]:
        """Return the blocks and the layers behind them: the units of gradient checkpointing."""
        return [*self.blocks, *self.nonlocals.values()]


def init_published(net: nn.Module, zero_init_last: bool) -> None:
    """Draw weights as the published networks do: convolutions He-normal by fan-out, norms at one and zero.

    With `zero_init_last` the last norm of each residual branch starts at zero (Goyal et al., arXiv:1706.02677,
    section 5.1), so that each block starts as its shortcut. Non-local layers keep their own start.
    """
    for module in _outside_nonlocals(net):
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, Bottleneck3D) and zero_init_last:
            nn.init.zeros_(module.bn3.weight)


def _outside_nonlocals(net: nn.Module) -> list[nn.Module]:
    inside = {id(m) for stage in net.modules() if isinstance(stage, Stage) for m in stage.nonlocals.modules()}
    return [module for module in net.modules() if id(module) not in inside]


def keep_order(net: nn.Module) -> None:
    """Store 3D kernels in channels_last_3d order, so that no convolution copies them into it."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.weight.device.type in ("cpu", "cuda"):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
