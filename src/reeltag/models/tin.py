"""TIN: TSN whose residual branches see channels moved along time by offsets learned from the clip."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from reeltag.layers.temporal_interlace import Interlaced, TemporalInterlace
from reeltag.models import MODELS
from reeltag.models.frame_network import branch_entries
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.interface import VideoModel, clip_check
from reeltag.models.tsn import Consensus, TemporalSegmentNetwork

InterlacePlace = Literal["conv1", "every_conv"]
_BRANCH_CONVS = ("conv1", "conv2", "conv3")


class TemporalInterlacingNetwork(TemporalSegmentNetwork):
    """A 2D backbone with interlacing in front of its residual branches, and the mean over frames of TSN.

    Paper: Shao, Qian, Liu. Temporal Interlacing Network. AAAI 2020, arXiv:2001.06499.

    Args:
        backbone: the frame network; it must have residual blocks that begin with a convolution.
        num_labels: L.
        num_frames: T, which the offset networks are made for.
        shift_div: the first C / shift_div channels of a layer take part.
        place: in front of the first convolution of each residual branch, as the published weights have it, or of
            `every_conv`, as the winners of Multi-Moments in Time 2019 describe it (arXiv:2003.05837, section 3.4).
        dropout: see `TemporalSegmentNetwork`; so are `consensus` and `head_std`.
    """

    def __init__(
        self,
        backbone: ImageBackbone,
        num_labels: int,
        *,
        num_frames: int = 8,
        shift_div: int = 4,
        place: InterlacePlace = "conv1",
        dropout: float = 0.5,
        consensus: Consensus = "logits",
        head_std: float = 0.001,
    ) -> None:
        super().__init__(backbone, num_labels, dropout=dropout, consensus=consensus, head_std=head_std)
        self.num_frames = num_frames
        self.clip_shape = (num_frames, *self.clip_shape[1:])
        insert_interlacing(backbone.net, num_frames, shift_div=shift_div, place=place)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, T, D, h, w) of a clip (B, T, C, H, W) with the T that the model is made for."""
        clip_check(clip)
        if clip.shape[1] != self.num_frames:
            raise ValueError(
                f"this TIN is made for {self.num_frames} frames a clip, got {clip.shape[1]}; build it with num_frames="
            )
        return super().forward_features(clip)


def insert_interlacing(net: nn.Module, num_frames: int, *, shift_div: int = 4, place: InterlacePlace = "conv1") -> int:
    """Put interlacing in front of the convolutions of the residual branches of a 2D network; returns how many.

    Raises:
        ValueError: the network has no residual branch that begins with a convolution.
    """
    if place not in ("conv1", "every_conv"):
        raise ValueError(f"place must be 'conv1' or 'every_conv', got {place!r}")
    inserted = 0
    for entry in branch_entries(net, "temporal interlacing"):
        further = [name for name in _BRANCH_CONVS if name != entry.name] if place == "every_conv" else []
        for name in (entry.name, *further):
            layer = getattr(entry.block, name, None)
            conv = first_convolution(layer)
            if layer is None or (conv is None and name in further):
                continue
            if conv is None:
                raise ValueError(
                    f"temporal interlacing needs branches that begin with a convolution; {entry.path} of "
                    f"{type(net).__name__} begins with {type(layer).__name__}. Take a backbone such as resnet50"
                )
            interlace = TemporalInterlace(conv.in_channels, num_frames, shift_div)
            setattr(entry.block, name, Interlaced(layer, interlace))
            inserted += 1
    return inserted


def first_convolution(layer: nn.Module | None) -> nn.Conv2d | None:
    """Return the convolution that a layer is or begins with, or None; a leading norm is not one."""
    if layer is None:
        return None
    leaves = (module for module in layer.modules() if not list(module.children()))
    first = next(leaves, None)
    return first if isinstance(first, nn.Conv2d) else None


@MODELS.register_family("tin_", key="backbone")
def tin(
    *,
    backbone: str,
    num_labels: int,
    num_frames: int = 8,
    shift_div: int = 4,
    place: InterlacePlace = "conv1",
    dropout: float = 0.5,
    consensus: Consensus = "logits",
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build TIN on any residual 2D backbone by name (arXiv:2001.06499)."""
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    return TemporalInterlacingNetwork(
        net,
        num_labels,
        num_frames=num_frames,
        shift_div=shift_div,
        place=place,
        dropout=dropout,
        consensus=consensus,
        head_std=head_std,
    )
