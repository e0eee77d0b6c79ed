"""2D image backbones that see one frame at a time: any timm model by name, or one of our own (home of timm)."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from reeltag.errors import UnknownName
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, PixelNorm, pixel_norm_for
from reeltag.models import BACKBONES
from reeltag.registry import close_name


class ImageBackbone(nn.Module):
    """A 2D network without classifier, with the pixel statistics it was made for.

    Attributes:
        net: the network; `forward_features` and a pooled `forward_head(pre_logits=True)` as timm has them.
        norm: uint8 to network input.
        num_features: D, the width after pooling.
    """

    def __init__(self, net: Any, num_features: int, norm: PixelNorm) -> None:
        super().__init__()
        self.net = net
        self.norm = norm
        self.num_features = num_features

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the map (N, D, h, w) (tokens (N, P, D) for transformers) of frames (N, C, H, W)."""
        x = self.norm(frames)
        if x.device.type in ("cpu", "cuda"):
            x = x.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.net.forward_features(x)
        return features

    def pool(self, features: Tensor) -> Tensor:
        """Return (N, D): the network's own pooling, without dropout or classifier."""
        pooled: Tensor = self.net.forward_head(features, pre_logits=True)
        return pooled


def build_backbone(name: str, *, in_channels: int = 3, pretrained: bool = False, **options: Any) -> ImageBackbone:
    """Build a 2D backbone by name: one of `BACKBONES`, else any image model of timm.

    Args:
        name: for example `resnet50`, `vit_small_patch16_224`, `mini`.
        in_channels: channels of a frame, 3 for RGB; other counts average the RGB kernels of pretrained weights.
        pretrained: load timm's published weights (needs a network or timm's cache).
        **options: passed to the builder (for timm, for example `drop_path_rate`).

    Raises:
        UnknownName: neither we nor timm have it; the message names the nearest.
        ValueError: pretrained weights of a network that has none to fetch.
    """
    if name in BACKBONES:
        if "pretrained" in BACKBONES.schema(name):
            options["pretrained"] = pretrained
        elif pretrained:
            raise ValueError(f"{name} has no weights to fetch; load a published file with from_published instead")
        backbone: ImageBackbone = BACKBONES.build(name, in_channels=in_channels, **options)
        return backbone
    if not timm.is_model(name):
        names = [*BACKBONES, *timm.list_models()]
        raise UnknownName(
            f"No backbone is called {name!r}. {close_name(name, names)}Any image model of timm will do: "
            "`reeltag list backbones '*resnet*'` shows them."
        )
    net: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options)
    config = net.pretrained_cfg
    mean, std = tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    width = getattr(net, "head_hidden_size", None) or net.num_features
    return ImageBackbone(net, int(width), pixel_norm_for(in_channels, mean, std))


def list_backbones(pattern: str = "*") -> list[str]:
    """Return our own backbones and timm's image models that match a shell pattern."""
    return [*BACKBONES.matching(pattern), *timm.list_models(pattern)]
