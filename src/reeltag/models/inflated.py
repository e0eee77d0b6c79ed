"""Any 2D network inflated in time: `i3d_<backbone>` and `p3d_<backbone>`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from reeltag.layers.inflate import Inflation, TimePadding, inflate
from reeltag.models import MODELS
from reeltag.models.image2d import build_backbone
from reeltag.models.interface import clip_check
from reeltag.models.tsn import TemporalSegmentNetwork


class InflatedNetwork(TemporalSegmentNetwork):
    """A 2D network whose spatial convolutions reach into time, the mean over frames and places, a linear layer.

    Papers: Carreira, Zisserman. arXiv:1705.07750 (`i3d`); Qiu, Yao, Mei. arXiv:1711.10305, and Tran et al.
    arXiv:1711.11248 (`p3d`). Time keeps its length through the network unless `time_strides` says otherwise (8 frames
    leave nothing to stride).

    Attributes:
        num_inflated: how many convolutions were changed.
    """

    num_inflated: int = 0

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, t, D, h, w) of a clip (B, T, C, H, W); t is T but for temporal strides."""
        clip_check(clip)
        self.clip.num_frames = clip.shape[1]
        return self.backbone.forward_features(clip.flatten(0, 1)).unflatten(0, (clip.shape[0], -1))


def _build(how: Inflation, backbone: str, num_labels: int, options: dict[str, Any]) -> InflatedNetwork:
    net = build_backbone(
        backbone,
        in_channels=options["in_channels"],
        pretrained=options["pretrained"],
        **(options["backbone_options"] or {}),
    )
    model = InflatedNetwork(net, num_labels, dropout=options["dropout"], head_std=options["head_std"])
    model.num_inflated = inflate(
        net.net, model.clip, how, **{name: options[name] for name in ("time_kernel", "time_padding", "time_strides")}
    )
    return model


@MODELS.register_family("i3d_", key="backbone")
def i3d_inflated(
    *,
    backbone: str,
    num_labels: int,
    dropout: float = 0.5,
    time_kernel: int | dict[str, int] = 3,
    time_padding: TimePadding = "zeros",
    time_strides: dict[str, int] | None = None,
    head_std: float = 0.01,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> InflatedNetwork:
    """Build any 2D backbone with every k x k filter repeated over time (arXiv:1705.07750).

    `time_kernel`, `time_padding` and `time_strides` are those of `layers.inflate.inflate`.
    """
    return _build("i3d", backbone, num_labels, locals())


@MODELS.register_family("p3d_", key="backbone")
def p3d_inflated(
    *,
    backbone: str,
    num_labels: int,
    dropout: float = 0.5,
    time_kernel: int | dict[str, int] = 3,
    time_padding: TimePadding = "zeros",
    time_strides: dict[str, int] | None = None,
    head_std: float = 0.01,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> InflatedNetwork:
    """Build any 2D backbone with a temporal filter behind each k x k one (arXiv:1711.10305, arXiv:1711.11248).

    `time_kernel`, `time_padding` and `time_strides` are those of `layers.inflate.inflate`.
    """
    return _build("p3d", backbone, num_labels, locals())
