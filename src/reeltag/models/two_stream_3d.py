"""The 3D-fused two-stream network of "Quo vadis": image networks on frames and flow, then a 3D convolution on both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reeltag.models import MODELS
from reeltag.models.frame_network import outer_blocks
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.interface import VideoModel, clip_check
from reeltag.schema import InputKind


class FusedTwoStream(VideoModel):
    """Maps of an RGB and a flow network through one 3x3x3 convolution, a 3x3x3 max-pool, and a linear layer.

    Papers: Feichtenhofer, Pinz, Zisserman. Convolutional Two-Stream Network Fusion. CVPR 2016, arXiv:1604.06573; as in
    Carreira, Zisserman. arXiv:1705.07750, section 2.3 and table 1, (d): 5 frames, 10 apart, each with its flow, and 512
    channels. After the pool the map is averaged, so that any size is taken.

    Args:
        rgb: an image network of 3 channels.
        flow: an image network of the channels of one flow stack.
        num_labels: L.
        width: channels of the 3D convolution.
        dropout: probability on the averaged features.
    """

    input_kind: ClassVar[InputKind] = "fusion"
    modalities: ClassVar[tuple[str, ...]] = ("rgb", "flow")
    clip_shape = (5, 3, 224, 224)

    def __init__(
        self, rgb: ImageBackbone, flow: ImageBackbone, num_labels: int, *, width: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.rgb, self.flow = rgb, flow
        self.flow_channels = flow.in_channels
        self.fuse = nn.Conv3d(rgb.num_features + flow.num_features, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(width)
        self.pool = nn.MaxPool3d(3, stride=2, padding=1)
        self.num_features = width
        self.dropout = nn.Dropout(dropout)
        self.reset_classifier(num_labels)

    def blocks(self) -> Iterable[nn.Module]:
        """Return the residual blocks of both image networks."""
        return [block for net in (self.rgb.net, self.flow.net) for _, block in outer_blocks(net)]

    def example_input(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return one dictionary of drawn clips, by modality."""
        device, (frames, _, height, width) = self.fuse.weight.device, self.clip_shape
        channels = {"rgb": 3, "flow": self.flow_channels}
        return ({n: torch.rand(batch_size, frames, c, height, width, device=device) for n, c in channels.items()},)

    def forward(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return (B, L) logits of clips by modality; ValueError when `present` (B, 2) lacks one of a clip."""
        if present is not None and not bool(present.all()):
            raise ValueError(
                "this network needs rgb and flow of every clip; `two_stream_<backbone>` does without either"
            )
        return self.forward_head(self.forward_features(clips))

    def forward_features(self, clips: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
        """Return the fused map (B, 512, t, h, w) of `rgb` (B, T, 3, H, W) and `flow` (B, T, 2k, H, W)."""
        for name in self.modalities:
            if name not in clips:
                raise ValueError(
                    f"this network needs rgb and flow, {name} is missing; `two_stream_<backbone>` does without either"
                )
            clip_check(clips[name])
        frames = clips["rgb"].shape[1]
        if clips["flow"].shape[1] != frames:
            raise ValueError(f"rgb has {frames} frames and flow {clips['flow'].shape[1]}; give one flow stack a frame")
        maps = [
            net.forward_features(clips[name].flatten(0, 1)) for name, net in (("rgb", self.rgb), ("flow", self.flow))
        ]
        both = torch.cat(maps, 1).unflatten(0, (-1, frames)).transpose(1, 2)  # (B, 2D, T, h, w)
        fused: Tensor = self.pool(self.norm(self.fuse(both)).relu())
        return fused

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, 512) with `pre_logits`."""
        pooled = features.mean((2, 3, 4))
        return pooled if pre_logits else self.classifier(self.dropout(pooled))


@MODELS.register("two_stream_3d_fused")
def two_stream_3d_fused(
    *,
    num_labels: int,
    backbone: str = "inception_v1",
    dropout: float = 0.5,
    width: int = 512,
    flow_channels: int = 10,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> FusedTwoStream:
    """Build the 3D-fused two-stream network (arXiv:1705.07750, table 1, d) on any convolutional 2D backbone."""
    rgb, flow = (
        build_backbone(backbone, in_channels=channels, pretrained=pretrained, **(backbone_options or {}))
        for channels in (3, flow_channels)
    )
    return FusedTwoStream(rgb, flow, num_labels, width=width, dropout=dropout)
