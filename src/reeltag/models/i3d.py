"""I3D on Inception-v1: the two-stream network of "Quo vadis", one stream at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import PixelNorm
from reeltag.layers.same_padding import SameMaxPool3d, Size3, pad_same
from reeltag.models import MODELS
from reeltag.models.adapters.inception_v1 import image_weights
from reeltag.models.interface import VideoModel
from reeltag.models.pooled import to_channels_first

# Widths of the four branches: 1x1x1 | 1x1x1, 3x3x3 | 1x1x1, 3x3x3 | pool, 1x1x1.
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
_ONE: Size3 = (1, 1, 1)
_THREE: Size3 = (3, 3, 3)


class Unit3d(nn.Module):
    """A 3D convolution with SAME padding and no bias, batch norm (epsilon 1e-3), and ReLU."""

    def __init__(self, in_width: int, width: int, kernel: Size3 = _ONE, stride: Size3 = _ONE) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_width, width, kernel, stride, bias=False)
        self.norm = nn.BatchNorm3d(width, eps=1e-3, momentum=0.01)
        self.kernel, self.stride = kernel, stride
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, ...) with every axis divided by its stride, rounded up."""
        return F.relu(self.norm(self.conv(pad_same(x, self.kernel, self.stride))))


class Mixed(nn.Module):
    """The four branches of an inception block, side by side."""

    def __init__(self, in_width: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        a, b_in, b, c_in, c, d = widths
        self.width = a + b + c + d
        self.branch0 = Unit3d(in_width, a)
        self.branch1 = nn.Sequential(Unit3d(in_width, b_in), Unit3d(b_in, b, _THREE))
        self.branch2 = nn.Sequential(Unit3d(in_width, c_in), Unit3d(c_in, c, _THREE))
        self.branch3 = nn.Sequential(SameMaxPool3d(_THREE, _ONE), Unit3d(in_width, d))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, T, H, W)."""
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class InceptionI3D(VideoModel):
    """Inception-v1 with every filter inflated in time; strides of 8 in time and 32 in space.

    Paper: Carreira, Zisserman. Quo Vadis, Action Recognition? CVPR 2017, arXiv:1705.07750, section 2.4 and figure 3.
    The 5x5 filters of branch 2 are 3x3, as in the published network. The last map is averaged over 2 frames and
    7x7 pixels at stride one, classified at every place, and the logits are averaged; maps smaller than that window are
    averaged whole (the published code needs 9 frames of 224 px or more).

    Args:
        num_labels: L.
        in_channels: 3 for RGB, 2 for flow.
        dropout: probability on the averaged features.
    """

    clip_shape = (64, 3, 224, 224)

    def __init__(self, num_labels: int, *, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        # Pixels and quantised flow alike come to [-1, 1], as published; 128 / 255 would make "no flow" exactly zero.
        mean = 0.5 if in_channels == 3 else 128 / 255
        self.norm = PixelNorm((mean,) * in_channels, (0.5,) * in_channels)
        self.clip_shape = (64, in_channels, 224, 224)
        self.conv1 = Unit3d(in_channels, 64, (7, 7, 7), (2, 2, 2))
        self.pool1 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.conv2 = Unit3d(64, 64)
        self.conv3 = Unit3d(64, 192, _THREE)
        self.pool2 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.mixed = nn.ModuleDict()
        width = 192
        for name, widths in MIXED.items():
            block = Mixed(width, widths)
            self.mixed[name], width = block, block.width
        self.pool3 = SameMaxPool3d(_THREE, (2, 2, 2))
        self.pool4 = SameMaxPool3d((2, 2, 2), (2, 2, 2))
        self.num_features = width
        self.dropout = nn.Dropout(dropout)
        self.reset_classifier(num_labels)

    def blocks(self) -> list[nn.Module]:
        """Return the inception blocks."""
        return list(self.mixed.values())

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, 1024, T / 8, H / 32, W / 32), sizes rounded up, of a clip (B, T, C, H, W)."""
        x = self.pool1(self.conv1(to_channels_first(clip, self.norm)))
        x = self.pool2(self.conv3(self.conv2(x)))
        for name, block in self.mixed.items():
            if name == "4b":
                x = self.pool3(x)
            elif name == "5b":
                x = self.pool4(x)
            x = block(x)
        return x

    def logits_in_time(self, features: Tensor) -> Tensor:
        """Return (B, L, t) logits along time, averaged over space: what the published network gives."""
        window = tuple(min(size, wanted) for size, wanted in zip(features.shape[2:], (2, 7, 7), strict=True))
        averaged = F.avg_pool3d(features, window, 1)  # (B, D, t, h, w)
        logits: Tensor = self.classifier(self.dropout(averaged).movedim(1, -1))  # (B, t, h, w, L)
        return logits.mean((2, 3)).transpose(1, 2)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, D) over time and space with `pre_logits`."""
        if pre_logits:
            return features.mean((2, 3, 4))
        return self.logits_in_time(features).mean(2)


def start_from_images(model: InceptionI3D, weights: Mapping[str, Tensor]) -> None:
    """Load 2D Inception-v1 weights, every k x k filter repeated over the k frames of its 3D one and divided by k.

    Paper: arXiv:1705.07750, section 2.4, "Bootstrapping 3D filters from 2D filters". A stem of other channels than RGB
    takes the mean over RGB for each.

    Args:
        model: changed in place; its classifier stays as drawn.
        weights: under torchvision's names, without classifiers.
    """
    own = model.state_dict()
    for key, tensor in weights.items():
        name = _own_name(key)
        if name not in own:
            raise ValueError(f"{key!r} is no weight of torchvision's GoogLeNet without classifiers")
        if tensor.ndim == 4:
            if tensor.shape[1] != own[name].shape[1]:
                tensor = tensor.mean(1, keepdim=True).expand(-1, own[name].shape[1], -1, -1)
            frames = own[name].shape[2]
            tensor = tensor.unsqueeze(2).expand_as(own[name]) / frames
        own[name] = tensor
    model.load_state_dict(own)


def _own_name(key: str) -> str:
    """Return our name of a weight of torchvision's GoogLeNet, whose blocks and branches start one earlier and later."""

    def block(found: re.Match[str]) -> str:
        stage, letter, branch = found.groups()
        return f"mixed.{stage}{chr(ord(letter) + 1)}.branch{int(branch) - 1}."

    return re.sub(r"^inception(\d)([a-e])\.branch(\d)\.", block, key).replace(".bn.", ".norm.")


@MODELS.register("i3d_inception")
def i3d_inception(
    *, num_labels: int, in_channels: int = 3, dropout: float = 0.5, pretrained: bool = False
) -> InceptionI3D:
    """Build I3D on Inception-v1 (arXiv:1705.07750); `in_channels: 2` for flow, `pretrained` from ImageNet's weights."""
    model = InceptionI3D(num_labels, in_channels=in_channels, dropout=dropout)
    if pretrained:
        start_from_images(model, image_weights())
    return model
