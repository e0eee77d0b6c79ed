"""S3D, MViT and Video Swin of torchvision behind our interface (one of the homes of torchvision)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import video

from reeltag.layers.pixel_norm import PixelNorm
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.pooled import to_channels_first

_KINETICS_MEAN, _KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
_GREY_MEAN, _GREY_STD = (0.45,) * 3, (0.225,) * 3
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Adapter(VideoModel):
    """What the three share: the library's network without its classifier, as `net`, and ours behind it."""

    def __init__(self, net: Any, norm: PixelNorm, num_features: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        self.net = net
        self.norm = norm
        self.num_features = num_features
        self.dropout = nn.Dropout(dropout)
        self.reset_classifier(num_labels)


class S3D(_Adapter):
    """S3D: an Inception network with separated filters in space and time.

    Paper: Xie et al. Rethinking Spatiotemporal Feature Learning. ECCV 2018, arXiv:1712.04851; the network is
    torchvision's. Its map is averaged over 2 frames and 7 x 7 pixels at stride one, classified, and averaged; maps
    smaller than that window are averaged whole, where torchvision raises an error.
    """

    clip_shape = (16, 3, 224, 224)

    def blocks(self) -> list[nn.Module]:
        """Return the stem's and the inception blocks."""
        return [module for module in self.net.features if not isinstance(module, nn.MaxPool3d)]

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, 1024, T / 8, H / 32, W / 32)."""
        features: Tensor = self.net.features(to_channels_first(clip, self.norm))
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the averaged (B, D) features with `pre_logits`."""
        window = tuple(min(size, wanted) for size, wanted in zip(features.shape[2:], (2, 7, 7), strict=True))
        pooled = F.avg_pool3d(features, window, 1).mean((2, 3, 4))  # the classifier is linear: mean first, once
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


class MViT(_Adapter):
    """Multiscale vision transformer; it takes one size of clip, that of its position codes.

    Papers: Fan et al. arXiv:2104.11227 (v1); Li et al. arXiv:2112.01526 (v2); the network is torchvision's.
    """

    clip_shape = (16, 3, 224, 224)

    def blocks(self) -> list[nn.Module]:
        """Return the transformer blocks."""
        return list(self.net.blocks)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return tokens (B, 1 + N, D), the class token first."""
        if clip.ndim == 5 and (clip.shape[1], *clip.shape[3:]) != (self.clip_shape[0], *self.clip_shape[2:]):
            frames, _, height, width = self.clip_shape
            raise ValueError(
                f"this network takes {frames} frames of {height}x{width}, got {clip.shape[1]} of {clip.shape[3]}x"
                f"{clip.shape[4]}; set data.num_frames and data.crop_px"
            )
        x = self.net.conv_proj(to_channels_first(clip, self.norm)).flatten(2).transpose(1, 2)  # (B, N, D)
        x, encoding = self.net.pos_encoding(x), self.net.pos_encoding
        size = (encoding.temporal_size, *encoding.spatial_size)
        for block in self.net.blocks:
            x, size = block(x, size)
        tokens: Tensor = self.net.norm(x)
        return tokens

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the class token (B, D) with `pre_logits`."""
        token = features[:, 0]
        return token if pre_logits else self.classifier(self.dropout(token))


class Swin3D(_Adapter):
    """Video Swin transformer, of any length and size.

    Paper: Liu et al. Video Swin Transformer. arXiv:2106.13230; the network is torchvision's.
    """

    clip_shape = (32, 3, 224, 224)

    def blocks(self) -> list[nn.Module]:
        """Return the transformer blocks of all stages."""
        return [block for stage in self.net.features if isinstance(stage, nn.Sequential) for block in stage]

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, T / 2, H / 32, W / 32, D), sizes rounded up."""
        x = self.net.pos_drop(self.net.patch_embed(to_channels_first(clip, self.norm)))
        features: Tensor = self.net.norm(self.net.features(x))
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, D) over time and space with `pre_logits`."""
        pooled = features.mean((1, 2, 3))
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


@MODELS.register("s3d")
def s3d(*, num_labels: int, dropout: float = 0.2) -> S3D:
    """Build torchvision's S3D (arXiv:1712.04851)."""
    net = video.s3d()
    net.classifier = nn.Identity()
    return S3D(net, PixelNorm(_KINETICS_MEAN, _KINETICS_STD), 1024, num_labels, dropout)


def _mvit(net: Any, num_labels: int, dropout: float) -> MViT:
    width = net.head[-1].in_features
    net.head = nn.Identity()
    return MViT(net, PixelNorm(_GREY_MEAN, _GREY_STD), width, num_labels, dropout)


@MODELS.register("mvit_v1_b")
def mvit_v1_b(*, num_labels: int, dropout: float = 0.5) -> MViT:
    """Build torchvision's MViT-B (arXiv:2104.11227) for 16 frames of 224 px."""
    return _mvit(video.mvit_v1_b(num_classes=1), num_labels, dropout)


@MODELS.register("mvit_v2_s")
def mvit_v2_s(*, num_labels: int, dropout: float = 0.5) -> MViT:
    """Build torchvision's MViTv2-S (arXiv:2112.01526) for 16 frames of 224 px."""
    return _mvit(video.mvit_v2_s(num_classes=1), num_labels, dropout)


@MODELS.register("swin3d_t")
def swin3d_t(*, num_labels: int, dropout: float = 0.0) -> Swin3D:
    """Build torchvision's Video Swin-T (arXiv:2106.13230)."""
    net = video.swin3d_t(num_classes=1)
    width = net.head.in_features
    net.head = nn.Identity()
    return Swin3D(net, PixelNorm(_IMAGENET_MEAN, _IMAGENET_STD), width, num_labels, dropout)
