"""BN-Inception, the frame network of the first temporal segment networks; timm does not have it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.conv_norm import ConvNorm2d
from reeltag.layers.pixel_norm import pixel_norm_for
from reeltag.models import BACKBONES
from reeltag.models.image2d import ImageBackbone

# Pixels are BGR in 0..255 with these means, given here in RGB.
_MEAN = (123 / 255, 117 / 255, 104 / 255)
_STD = (1 / 255,) * 3
# Name, widths of: 1x1, (reduce, 3x3), (reduce, 3x3, 3x3), pool projection. 0 and 0 for the two blocks of stride 2.
_BLOCKS = (
    ("3a", 64, (64, 64), (64, 96, 96), 32),
    ("3b", 64, (64, 96), (64, 96, 96), 64),
    ("3c", 0, (128, 160), (64, 96, 96), 0),
    ("4a", 224, (64, 96), (96, 128, 128), 128),
    ("4b", 192, (96, 128), (96, 128, 128), 128),
    ("4c", 160, (128, 160), (128, 160, 160), 128),
    ("4d", 96, (128, 192), (160, 192, 192), 128),
    ("4e", 0, (128, 192), (192, 256, 256), 0),
    ("5a", 352, (192, 320), (160, 224, 224), 128),
    ("5b", 352, (192, 320), (192, 224, 224), 128),
)


class InceptionBlock(nn.Module):
    """Branches of 1x1, one 3x3, two 3x3 and a projected pool, side by side; with stride 2 the pool passes as it is."""

    def __init__(
        self, in_width: int, point: int, single: tuple[int, int], double: tuple[int, int, int], pooled: int, pool: str
    ) -> None:
        super().__init__()
        self.stride = 1 if point else 2
        self.pool = pool
        self.point = ConvNorm2d(in_width, point, 1, bias=True) if point else None
        self.once = nn.Sequential(
            ConvNorm2d(in_width, single[0], 1, bias=True),
            ConvNorm2d(single[0], single[1], 3, stride=self.stride, bias=True),
        )
        self.twice = nn.Sequential(
            ConvNorm2d(in_width, double[0], 1, bias=True),
            ConvNorm2d(double[0], double[1], 3, bias=True),
            ConvNorm2d(double[1], double[2], 3, stride=self.stride, bias=True),
        )
        self.pooled = ConvNorm2d(in_width, pooled, 1, bias=True) if pooled else None
        self.out_width = point + single[1] + double[2] + (pooled or in_width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_width, H', W')."""
        branches = [self.once(x), self.twice(x)]
        if self.point is None or self.pooled is None:
            return torch.cat((*branches, F.max_pool2d(x, 3, 2, ceil_mode=True)), 1)
        near = F.max_pool2d(x, 3, 1, 1) if self.pool == "max" else F.avg_pool2d(x, 3, 1, 1)
        return torch.cat((self.point(x), *branches, self.pooled(near)), 1)


class BNInception(nn.Module):
    """The network of Ioffe, Szegedy. Batch Normalization. ICML 2015, arXiv:1502.03167, figure 5, as TSN uses it.

    Convolutions have a bias before their norm, as in the published Caffe file. The last block pools by maximum, the
    others by mean.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvNorm2d(in_channels, 64, 7, stride=2, bias=True)
        self.conv2_reduce = ConvNorm2d(64, 64, 1, bias=True)
        self.conv2 = ConvNorm2d(64, 192, 3, bias=True)
        width = 192
        for name, point, single, double, pooled in _BLOCKS:
            block = InceptionBlock(width, point, single, double, pooled, "max" if name == "5b" else "mean")
            self.add_module(f"inception_{name}", block)
            width = block.out_width
        self.num_features = width

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map (N, 1024, H / 32, W / 32)."""
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv2(self.conv2_reduce(x)), 3, 2, ceil_mode=True)
        for name, *_ in _BLOCKS:
            x = self.get_submodule(f"inception_{name}")(x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the spatial mean (N, 1024)."""
        return features.mean((2, 3))


@BACKBONES.register("bninception")
def bninception(*, in_channels: int = 3) -> ImageBackbone:
    """Build BN-Inception (arXiv:1502.03167). Its RGB weights see blue first: uint8 frames are turned round for them."""
    net = BNInception(in_channels)
    return ImageBackbone(net, net.num_features, pixel_norm_for(in_channels, _MEAN, _STD, reverse=True))
