"""PolyNet: Inception-ResNet blocks in two ways or up to the third power; timm does not have it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.conv_norm import ConvNorm2d
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, pixel_norm_for
from reeltag.models import BACKBONES
from reeltag.models.image2d import ImageBackbone

Kernel = int | tuple[int, int]
Branches = tuple[tuple[tuple[int, Kernel], ...], ...]
# Of each stage: width of the map, and (width, kernel) of the convolutions of each branch.
_A = (384, (((32, 1), (48, 3), (64, 3)), ((32, 1), (32, 3)), ((32, 1),)))
_B = (1152, (((128, 1), (160, (1, 7)), (192, (7, 1))), ((192, 1),)))
_C = (2048, (((192, 1), (224, (1, 3)), (256, (3, 1))), ((192, 1),)))
_REDUCE_A: Branches = (((256, 1), (256, 3), (384, 3)), ((384, 3),))
_REDUCE_B: Branches = (((256, 1), (256, 3), (256, 3)), ((256, 1), (256, 3)), ((256, 1), (384, 3)))
_ORDER = 3
_LAST_SCALE = 0.7


class InceptionWay(nn.Module):
    """One Inception function: branches side by side, joined by a 1x1 convolution without ReLU."""

    def __init__(self, width: int, branches: Branches) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_chain(width, branch) for branch in branches)
        self.merge = ConvNorm2d(sum(branch[-1][0] for branch in branches), width, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        merged: Tensor = self.merge(torch.cat([branch(x) for branch in self.branches], 1))
        return merged


class TwoWayBlock(nn.Module):
    """relu(x + scale * (F(x) + G(x))) of two Inception functions."""

    def __init__(self, width: int, branches: Branches, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.ways = nn.ModuleList(InceptionWay(width, branches) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        out = x
        for way in self.ways:
            out = out + self.scale * way(x)
        return F.relu(out)


class SharedConvNorm(nn.Module):
    """A convolution shared by the powers of a block, with a batch norm for each power."""

    def __init__(self, in_width: int, width: int, kernel: Kernel, order: int) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.conv = nn.Conv2d(in_width, width, sides, padding=(sides[0] // 2, sides[1] // 2), bias=False)
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(order))
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, power: int) -> Tensor:
        """Return (N, width, H, W) under the norm of a power, counted from 0."""
        return F.relu(self.bns[power](self.conv(x)))


class PolyBlock(nn.Module):
    """relu(x + scale * (F(x) + F(F(x)) + F(F(F(x))))): one Inception function applied up to `order` times.

    The convolutions of the branches are shared, the norms and the joining convolutions are not; a ReLU stands between
    one application and the next.
    """

    def __init__(self, width: int, branches: Branches, scale: float, order: int = _ORDER) -> None:
        super().__init__()
        self.scale = scale
        self.branches = nn.ModuleList()
        for branch in branches:
            widths = (width, *(out for out, _ in branch))
            convs = [SharedConvNorm(widths[i], out, kernel, order) for i, (out, kernel) in enumerate(branch)]
            self.branches.append(nn.ModuleList(convs))
        joined = sum(branch[-1][0] for branch in branches)
        self.merges = nn.ModuleList(ConvNorm2d(joined, width, 1, relu=False) for _ in range(order))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        out = x
        for power, merge in enumerate(self.merges):
            ends = []
            for branch in self.branches:
                y = x
                for conv in cast(nn.ModuleList, branch):
                    y = conv(y, power)
                ends.append(y)
            x = merge(torch.cat(ends, 1))
            out = out + self.scale * x
            x = F.relu(x)
        return F.relu(out)


class Reduction(nn.Module):
    """Branches that end in stride 2 without padding, beside a max-pool."""

    def __init__(self, width: int, branches: Branches) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_chain(width, branch, reduce=True) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' channels, then the pooled ones, at half the size."""
        return torch.cat([*(branch(x) for branch in self.branches), F.max_pool2d(x, 3, 2)], 1)


def _chain(width: int, branch: tuple[tuple[int, Kernel], ...], *, reduce: bool = False) -> nn.Sequential:
    layers = []
    for index, (out, kernel) in enumerate(branch):
        down = reduce and index == len(branch) - 1
        layers.append(ConvNorm2d(width, out, kernel, stride=2 if down else 1, padding=0 if down else None))
        width = out
    return nn.Sequential(*layers)


class Stem(nn.Module):
    """From (N, C, H, W) to (N, 384, h, w), an eighth of the size and a little less."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(
            ConvNorm2d(in_channels, 32, 3, stride=2, padding=0),
            ConvNorm2d(32, 32, 3, padding=0),
            ConvNorm2d(32, 64, 3),
        )
        self.down1 = ConvNorm2d(64, 96, 3, stride=2, padding=0)
        self.short = nn.Sequential(ConvNorm2d(160, 64, 1), ConvNorm2d(64, 96, 3, padding=0))
        self.long = nn.Sequential(
            ConvNorm2d(160, 64, 1),
            ConvNorm2d(64, 64, (7, 1)),
            ConvNorm2d(64, 64, (1, 7)),
            ConvNorm2d(64, 96, 3, padding=0),
        )
        self.down2 = ConvNorm2d(192, 192, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 384, h, w)."""
        x = self.entry(x)
        x = torch.cat((F.max_pool2d(x, 3, 2), self.down1(x)), 1)
        x = torch.cat((self.short(x), self.long(x)), 1)
        return torch.cat((F.max_pool2d(x, 3, 2), self.down2(x)), 1)


class PolyNet(nn.Module):
    """Very deep PolyNet: 10 two-way A blocks, then 20 B and 10 C blocks, each kind by turns poly-3 and two-way.

    Paper: Zhang, Li, Loy, Lin. PolyNet: A Pursuit of Structural Diversity in Very Deep Networks. CVPR 2017,
    arXiv:1611.05725, section 4. The scale of the residuals falls evenly from 1 at the first block to 0.7 at the last.
    """

    num_features = _C[0]

    def __init__(self, in_channels: int = 3, depths: tuple[int, int, int] = (10, 20, 10)) -> None:
        super().__init__()
        total = sum(depths)
        scales = iter([1 - (1 - _LAST_SCALE) * index / max(1, total - 1) for index in range(total)])
        self.stem = Stem(in_channels)
        self.stage_a = nn.Sequential(*(TwoWayBlock(*_A, next(scales)) for _ in range(depths[0])))
        self.reduction_a = Reduction(_A[0], _REDUCE_A)
        self.stage_b = nn.Sequential(*_alternating(_B, depths[1], [next(scales) for _ in range(depths[1])]))
        self.reduction_b = Reduction(_B[0], _REDUCE_B)
        self.stage_c = nn.Sequential(*_alternating(_C, depths[2], [next(scales) for _ in range(depths[2])]))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map (N, 2048, h, w); 331 px give 9 x 9."""
        x = self.reduction_a(self.stage_a(self.stem(x)))
        features: Tensor = self.stage_c(self.reduction_b(self.stage_b(x)))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the spatial mean (N, 2048)."""
        return features.mean((2, 3))


def _alternating(stage: tuple[int, Branches], depth: int, scales: list[float]) -> list[nn.Module]:
    return [(TwoWayBlock if index % 2 else PolyBlock)(*stage, scales[index]) for index in range(depth)]


@BACKBONES.register("polynet")
def polynet(*, in_channels: int = 3, depths: tuple[int, int, int] = (10, 20, 10)) -> ImageBackbone:
    """Build PolyNet (arXiv:1611.05725), made for 331 px."""
    net = PolyNet(in_channels, depths)
    return ImageBackbone(net, net.num_features, pixel_norm_for(in_channels, IMAGENET_MEAN, IMAGENET_STD))
