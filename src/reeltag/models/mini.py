"""A small residual backbone for small pictures: total stride 8 and max-pooling, which small data learns motion from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import pixel_norm_for
from reeltag.models import BACKBONES
from reeltag.models.image2d import ImageBackbone


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride, computed as one without on the pixels that it reads: the same numbers.

    With fewer than 16 input channels in channels_last order and an odd batch, the gradient of PyTorch's own writes out
    of bounds on CPUs with AVX-512 and ends the process (oneDNN 3.13, its issue 6035).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, out, H / stride, W / stride)."""
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    The last norm starts at one, not at zero as in larger nets, so that the temporal shift inside the branch is seen
    from the first step on.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            conv = StridedPointwise if in_width < 16 else nn.Conv2d
            self.downsample = nn.Sequential(conv(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class MiniNet(nn.Module):
    """A 5x5 stem of stride 2, a max-pool, and one basic block a width; only the second block has a stride.

    Args:
        widths: output width of each block.
        in_channels: channels of a frame.
        grid: side of the grid of cells that a frame is pooled to.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), in_channels: int = 3, grid: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 5, 2, 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, before = [], widths[0]
        for index, width in enumerate(widths):
            blocks.append(BasicBlock(before, width, stride=2 if index == 1 else 1))
            before = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map (N, D, H / 8, W / 8)."""
        features: Tensor = self.blocks(self.stem(x))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the spatial maximum (N, D), or the maxima (N, D * grid * grid) of the cells."""
        if self.grid == 1:
            return torch.amax(features, dim=(2, 3))
        return F.adaptive_max_pool2d(features, self.grid).flatten(1)


@BACKBONES.register("mini")
def mini(*, in_channels: int = 3, widths: tuple[int, ...] = (32, 64, 128), grid: int = 1) -> ImageBackbone:
    """Build the backbone of the demo recipes, for pictures of about 64 px.

    Args:
        in_channels: channels of a frame.
        widths: output width of each block.
        grid: pool a frame to grid x grid cells. With 1 cell nothing says where in the picture something is, and
            a model that compares frames after pooling, such as TRN, sees no motion.

    Raises:
        ValueError: `grid` is below 1.
    """
    if grid < 1:
        raise ValueError(f"grid is the side of a grid of cells and must be at least 1, got {grid}")
    norm = pixel_norm_for(in_channels, (0.5,) * 3, (0.25,) * 3)
    return ImageBackbone(MiniNet(tuple(widths), in_channels, grid), widths[-1] * grid**2, norm)
