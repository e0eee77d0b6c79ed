"""2D image backbones that see one frame at a time: any timm model by name, or one of our own (home of timm)."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import timm
import torch
from torch import Tensor, nn

from reeltag.errors import UnknownName
from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, PixelNorm, pixel_norm_for
from reeltag.models import BACKBONES
from reeltag.registry import close_name

# Short names for what the field means by them, as (timm's name, its options).
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet269": ("resnet50", {"layers": (3, 30, 48, 8)}),
    "mobilenetv2": ("mobilenetv2_100", {}),
    "resnext101": ("resnext101_32x4d", {}),
    "se_resnet50": ("legacy_seresnet50", {}),
    "se_resnet101": ("legacy_seresnet101", {}),
    "se_resnet152": ("legacy_seresnet152", {}),
    "senet154": ("legacy_senet154", {}),  # timm's own senet154 has another stem, whose published weights differ
}


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

    @property
    def in_channels(self) -> int:
        """C, the channels of a frame."""
        return len(self.norm.scale)

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
        name: for example `resnet50`, `vit_small_patch16_224`, `mini`, or one of `ALIASES`.
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
    timm_name, shape = ALIASES.get(name, (name, {}))
    if not timm.is_model(timm_name):
        names = [*BACKBONES, *ALIASES, *timm.list_models()]
        raise UnknownName(
            f"No backbone is called {name!r}. {close_name(name, names)}Any image model of timm will do: "
            "`reeltag list backbones '*resnet*'` shows them."
        )
    if pretrained and shape:
        raise ValueError(f"{name} has no published image weights; build it without pretrained")
    net = _timm_net(timm_name, in_channels, pretrained, {**shape, **options})
    config = net.pretrained_cfg
    mean, std = tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))
    width = getattr(net, "head_hidden_size", None) or net.num_features
    return ImageBackbone(net, int(width), pixel_norm_for(in_channels, mean, std))


def _timm_net(name: str, in_channels: int, pretrained: bool, options: dict[str, Any]) -> Any:
    if not pretrained or in_channels == 3:
        return timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options)
    # timm would repeat the RGB kernels and scale them; TSN averages them.
    rgb: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, **options)
    net: nn.Module = timm.create_model(name, in_chans=in_channels, num_classes=0, **options)
    net.load_state_dict(fit_input_channels(rgb.state_dict(), net.state_dict()))
    return net


def fit_input_channels(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose first convolutions take as many channels as those of `own`.

    Paper: Wang et al. Temporal Segment Networks. ECCV 2016, arXiv:1608.00859, section 3.2 (cross-modality
    pre-training): the kernels are averaged over the input channels, and every new channel gets that mean.

    Args:
        weights: of a network that differs from `own` by its input channels at most. The first kernel that differs says
            how; a network with several paths, such as SlowFast, has others that differ in the same way.
        own: the state dict to fit; only its shapes are read.
    """
    fitted = dict(weights)
    change: tuple[int, int] | None = None
    for key, tensor in own.items():
        given = fitted.get(key)
        if given is None or given.ndim < 4 or given.shape == tensor.shape:
            continue
        change = change or (given.shape[1], tensor.shape[1])
        alike = (given.shape[0], *given.shape[2:]) == (tensor.shape[0], *tensor.shape[2:])
        if not alike or (given.shape[1], tensor.shape[1]) != change:
            break  # an error for whoever loads
        fitted[key] = given.mean(1, keepdim=True).expand(tensor.shape).contiguous()
    return fitted


def list_backbones(pattern: str = "*") -> list[str]:
    """Return our own backbones and timm's image models that match a shell pattern."""
    short = [name for name in ALIASES if fnmatchcase(name, pattern)]
    return [*BACKBONES.matching(pattern), *short, *(n for n in timm.list_models(pattern) if n not in short)]
