"""Inception-v1 with batch norm, torchvision's, as a 2D backbone: the image network of "Quo vadis"."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import GoogLeNet, GoogLeNet_Weights, googlenet

from reeltag.layers.pixel_norm import pixel_norm_for
from reeltag.models import BACKBONES
from reeltag.models.image2d import ImageBackbone


class InceptionV1(nn.Module):
    """The network of Szegedy et al. Going Deeper with Convolutions. CVPR 2015, arXiv:1409.4842, with batch norm.

    Its 5x5 filters are 3x3, as in the published weights and in I3D.

    Args:
        net: torchvision's network without auxiliary classifiers; its classifier is dropped.
    """

    def __init__(self, net: GoogLeNet) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for name, layer in net.named_children():
            if name == "avgpool":
                break
            self.layers.add_module(name, layer)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map (N, 1024, H / 32, W / 32)."""
        features: Tensor = self.layers(x)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the spatial mean (N, 1024)."""
        return features.mean((2, 3))


def image_weights() -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights under its own names (needs a network or torch's cache)."""
    return {
        key: tensor
        for key, tensor in GoogLeNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True).items()
        if not key.startswith(("aux", "fc."))
    }


@BACKBONES.register("inception_v1")
def inception_v1(*, in_channels: int = 3, pretrained: bool = False) -> ImageBackbone:
    """Build Inception-v1 (arXiv:1409.4842); other channel counts than 3 average the RGB kernels."""
    net: Any = googlenet(weights=None, aux_logits=False, init_weights=False)
    if in_channels != 3:
        net.conv1.conv = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
    _draw(net)
    if pretrained:
        weights = image_weights()
        stem = weights["conv1.conv.weight"]
        if in_channels != 3:
            weights["conv1.conv.weight"] = stem.mean(1, keepdim=True).repeat(1, in_channels, 1, 1)
        net.load_state_dict(weights, strict=False)
    # The published weights were trained on pixels in [-1, 1].
    return ImageBackbone(InceptionV1(net), 1024, pixel_norm_for(in_channels, (0.5,) * 3, (0.5,) * 3))


def _draw(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
