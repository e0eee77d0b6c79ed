"""What residual networks of 3D convolutions share: stem, blocks and stages, whatever a 3D convolution is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import PixelNorm
from reeltag.layers.temporal_shift import shift_as_kernel
from reeltag.models.pooled import PooledVideoModel

Triple = tuple[int, int, int]
HeadPool = Literal["mean", "space_max", "cells"]
TemporalInit = Literal["normal", "shift"]

WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
SHIFTED = 1 / 4  # of the channels, each way, where kernels start as a temporal shift


@dataclass(frozen=True)
class Place:
    """Where a convolution stands.

    Attributes:
        in_width: input channels.
        width: output channels.
        stride: (time, height, width).
        block: (inputs, planes) of its block.
        number: which convolution of its block, from 1.
    """

    in_width: int
    width: int
    stride: Triple
    block: tuple[int, int]
    number: int = 1


ConvMaker = Callable[[Place], nn.Module]


def full_conv(place: Place) -> nn.Module:
    """Return the 3x3x3 convolution of R3D."""
    return nn.Conv3d(place.in_width, place.width, 3, place.stride, 1, bias=False)


def frame_conv(place: Place) -> nn.Module:
    """Return the 1x3x3 convolution of MC3's later stages; it sees one frame."""
    return nn.Conv3d(place.in_width, place.width, (1, 3, 3), place.stride, (0, 1, 1), bias=False)


def entry_conv(place: Place) -> nn.Module:
    """Return 3x3x3 for the first convolution of a block and 1x3x3 for the second: TSM's place to see neighbours."""
    return full_conv(place) if place.number == 1 else frame_conv(place)


def point_conv(place: Place) -> nn.Module:
    """Return the 1x1x1 convolution of shortcuts."""
    return nn.Conv3d(place.in_width, place.width, 1, place.stride, bias=False)


class Stem3D(nn.Module):
    """A convolution, norm and ReLU, then an optional max-pool.

    Args:
        conv: from the clip's channels to `width`.
        width: output channels.
        pool_frames: frames that the max-pool sees: 0 for no pool, 1 for 1x3x3 of stride (1, 2, 2), 3 for 3x3x3 of
            stride 2 in time as well.
        eps: of the norm.
    """

    def __init__(self, conv: nn.Module, width: int, *, pool_frames: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        if pool_frames not in (0, 1, 3):
            raise ValueError(f"the stem pools over 0 (no pool), 1 or 3 frames, got {pool_frames}")
        self.conv = conv
        self.bn = nn.BatchNorm3d(width, eps)
        self.pool_frames = pool_frames

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, t, h, w)."""
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        if self.pool_frames:
            time = self.pool_frames // 2
            x = F.max_pool3d(x, (self.pool_frames, 3, 3), (time + 1, 2, 2), (time, 1, 1))
        return x


class ResidualBlock3D(nn.Module):
    """Two 3D convolutions, or one between two 1x1x1 convolutions (`bottleneck`), with a shortcut.

    Args:
        in_width: input channels.
        planes: channels of the convolutions; a bottleneck's output has four times as many.
        stride: (time, height, width), of the first 3D convolution and of the shortcut.
        conv: makes the 3D convolutions.
        shortcut: makes the shortcut's convolution, where the shape changes.
        bottleneck: which of the two forms.
        eps: of the norms.
    """

    def __init__(
        self,
        in_width: int,
        planes: int,
        stride: Triple,
        conv: ConvMaker,
        *,
        shortcut: ConvMaker = point_conv,
        bottleneck: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        block, still = (in_width, planes), (1, 1, 1)
        self.out_width = EXPANSION * planes if bottleneck else planes
        if bottleneck:
            self.conv1 = point_conv(Place(in_width, planes, still, block))
            self.conv2 = conv(Place(planes, planes, stride, block, 2))
            self.conv3: nn.Module | None = point_conv(Place(planes, self.out_width, still, block, 3))
            self.bn3: nn.BatchNorm3d | None = nn.BatchNorm3d(self.out_width, eps)
        else:
            self.conv1 = conv(Place(in_width, planes, stride, block))
            self.conv2 = conv(Place(planes, planes, still, block, 2))
            self.conv3 = self.bn3 = None
        self.bn1 = nn.BatchNorm3d(planes, eps)
        self.bn2 = nn.BatchNorm3d(planes, eps)
        self.downsample: nn.Module | None = None
        if stride != still or in_width != self.out_width:
            resize = shortcut(Place(in_width, self.out_width, stride, block))
            self.downsample = nn.Sequential(resize, nn.BatchNorm3d(self.out_width, eps))

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        """The norm at the end of the residual branch."""
        return self.bn2 if self.bn3 is None else self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_width, T / stride, H / stride, W / stride) of (B, in_width, T, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None and self.bn3 is not None:
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class ResNet3D(PooledVideoModel):
    """A stem, stages of residual blocks, and one linear layer on the pooled map.

    Args:
        num_labels: L.
        norm: uint8 to network input.
        stem: from (B, C, T, H, W) to `widths[0]` channels.
        depths: blocks of each stage.
        strides: of each stage, (time, height, width).
        convs: makes the 3D convolutions of each stage.
        widths: planes of each stage.
        shortcut: makes the convolutions of shortcuts.
        bottleneck: see `ResidualBlock3D`.
        eps: of the norms of blocks.
        zero_init_last: start each block as its shortcut (arXiv:1706.02677, section 5.1).
        head_pool: `mean` over time and space; `space_max`: the maximum over space, then the mean over time, which small
            data learns small moving things from; or `cells`: the maximum in each of `cells`, side by side. As in
            C3D (arXiv:1412.0767), the linear layer then sees when and where, and D is as many times larger.
        cells: (time, height, width), the grid of `head_pool: cells`.
        temporal_init: how 3x3x3 kernels start: `normal` draws every tap; `shift` draws one tap of each input channel,
            a quarter of the channels on the next frame, a quarter on the frame before, the others on their own. The
            network then starts as TSM with that shift (arXiv:1811.08383), and each tap learns from there.
        dropout: probability on the pooled features, in [0, 1).
        head_std: see `VideoModel`.
    """

    def __init__(
        self,
        num_labels: int,
        norm: PixelNorm,
        stem: nn.Module,
        depths: Sequence[int],
        strides: Sequence[Triple],
        convs: Sequence[ConvMaker],
        *,
        widths: Sequence[int] = WIDTHS,
        shortcut: ConvMaker = point_conv,
        bottleneck: bool = False,
        eps: float = 1e-5,
        zero_init_last: bool = False,
        head_pool: HeadPool = "mean",
        cells: Sequence[int] = (4, 4, 4),
        temporal_init: TemporalInit = "normal",
        dropout: float = 0.0,
        head_std: float = 0.01,
    ) -> None:
        if head_pool not in ("mean", "space_max", "cells"):
            raise ValueError(f"head_pool is 'mean', 'space_max' or 'cells', got {head_pool!r}")
        if len(cells) != 3 or min(cells) < 1:
            raise ValueError(f"cells are three counts from 1 on: time, height, width; got {cells}")
        if temporal_init not in ("normal", "shift"):
            raise ValueError(f"temporal_init is 'normal' or 'shift', got {temporal_init!r}")
        if min(depths, default=0) < 1 or not len(depths) == len(strides) == len(convs) == len(widths):
            raise ValueError(f"each stage needs a depth of at least 1 and a width, got {depths} and {widths}")
        last = EXPANSION * widths[-1] if bottleneck else widths[-1]
        if head_pool == "cells":
            last *= math.prod(cells)
        super().__init__(norm, last, dropout=dropout, head_std=head_std)
        self.head_pool = head_pool
        self.cells = tuple(cells)
        self.stem = stem
        self.stages = nn.Sequential()
        before = widths[0]
        for depth, planes, stride, conv in zip(depths, widths, strides, convs, strict=True):
            stage = nn.Sequential()
            for index in range(depth):
                step = (1, 1, 1) if index else stride
                block = ResidualBlock3D(
                    before, planes, step, conv, shortcut=shortcut, bottleneck=bottleneck, eps=eps
                )  # fmt: skip
                stage.append(block)
                before = block.out_width
            self.stages.append(stage)
        self._draw(zero_init_last, temporal_init)
        self.reset_classifier(num_labels)

    def _draw(self, zero_init_last: bool, temporal_init: TemporalInit) -> None:
        """Draw convolutions He-normal by fan-out; keep kernels in channels_last_3d, so that no forward copies them."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d) and temporal_init == "shift" and module.kernel_size[0] == 3:
                frame = nn.init.kaiming_normal_(module.weight.detach()[:, :, 1], mode="fan_out", nonlinearity="relu")
                module.weight.data = shift_as_kernel(frame, SHIFTED)
            elif isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, ResidualBlock3D) and zero_init_last:
                nn.init.zeros_(module.last_norm.weight)
        store_channels_last(self)

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the map (B, D, t, h, w) of normalised input (B, C, T, H, W)."""
        features: Tensor = self.stages(self.stem(x))
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the pooled (B, D) features with `pre_logits`."""
        if self.head_pool == "mean":
            return super().forward_head(features, pre_logits=pre_logits)
        if self.head_pool == "cells":
            pooled = F.adaptive_max_pool3d(features, self.cells).flatten(1)  # (B, D), C slowest
        else:
            pooled = features.amax((3, 4)).mean(2)
        return pooled if pre_logits else self.classifier(self.dropout(pooled))

    def blocks(self) -> list[nn.Module]:
        """Return the residual blocks."""
        return [module for module in self.stages.modules() if isinstance(module, ResidualBlock3D)]


def store_channels_last(net: nn.Module) -> None:
    """Store 3D kernels in channels_last_3d order, the order of the maps that they meet."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.weight.device.type in ("cpu", "cuda"):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
