"""Two streams, one on pixels and one on optical flow, whose scores are averaged; either may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reeltag.models import MODELS
from reeltag.models.contributions import modality_contributions
from reeltag.models.i3d import i3d_inception
from reeltag.models.image2d import build_backbone
from reeltag.models.interface import VideoModel
from reeltag.models.tsn import TemporalSegmentNetwork
from reeltag.schema import InputKind

STREAMS = ("rgb", "flow")


class TwoStream(VideoModel):
    """Two networks with nothing in common but the labels; their logits are averaged, with weights.

    Papers: Simonyan, Zisserman. Two-Stream Convolutional Networks for Action Recognition in Videos. NIPS 2014,
    arXiv:1406.2199; Carreira, Zisserman. arXiv:1705.07750, table 1, (c) and (e). The papers average softmax scores; for
    several labels a clip it is logits here.

    Args:
        rgb: takes (B, T, 3, H, W).
        flow: takes (B, T, 2k, H, W), its labels those of `rgb`.
        weights: of the streams.
    """

    input_kind: ClassVar[InputKind] = "fusion"
    modalities: ClassVar[tuple[str, ...]] = STREAMS

    def __init__(self, rgb: VideoModel, flow: VideoModel, weights: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"stream weights are at least 0 and not both 0, got {weights}")
        self.rgb, self.flow = rgb, flow
        self.num_labels = rgb.num_labels
        self.num_features = rgb.num_features + flow.num_features
        self.clip_shape = rgb.clip_shape
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.weights: Tensor

    @property
    def streams(self) -> dict[str, VideoModel]:
        """The two networks by modality."""
        return {"rgb": self.rgb, "flow": self.flow}

    @property
    def classifier(self) -> nn.Module:  # type: ignore[override]
        """Both streams' classifiers: what training the head alone trains."""
        return nn.ModuleList([stream.classifier for stream in self.streams.values()])

    def blocks(self) -> Iterable[nn.Module]:
        """Return the blocks of both streams."""
        return [block for stream in self.streams.values() for block in stream.blocks()]

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifiers of both streams."""
        for stream in self.streams.values():
            stream.reset_classifier(num_labels)
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the bias of both streams' classifiers to (L,) logits."""
        for stream in self.streams.values():
            stream.set_bias(logits)

    def example_input(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return one dictionary of drawn clips, by modality."""
        return ({name: stream.example_input(batch_size)[0] for name, stream in self.streams.items()},)

    def forward_features(self, clips: Mapping[str, Tensor]) -> Any:  # type: ignore[override]
        """Return the streams' maps by modality; a modality that is not given is left out."""
        given = {name: clips[name] for name in STREAMS if name in clips}
        if not given:
            raise ValueError(
                f"two streams take rgb and flow, one of them at least; got {', '.join(clips) or 'nothing'}"
            )
        return {name: self.streams[name].forward_features(clip) for name, clip in given.items()}

    def forward_head(self, features: Any, *, pre_logits: bool = False, present: Tensor | None = None) -> Tensor:
        """Return (B, L): the mean of the streams' logits, weighted, over the modalities that a clip has.

        Args:
            features: of `forward_features`.
            pre_logits: return both streams' pooled features side by side (B, D) instead, zeros for a missing stream.
            present: (B, 2) bool in the order rgb, flow; None means that what is given is there.
        """
        heads = {name: self.streams[name].forward_head(each, pre_logits=pre_logits) for name, each in features.items()}
        if pre_logits:
            batch = next(iter(heads.values()))
            missing = {name: batch.new_zeros(len(batch), self.streams[name].num_features) for name in STREAMS}
            return torch.cat([{**missing, **heads}[name] for name in STREAMS], 1)
        logits = torch.stack(list(heads.values()), 1)  # (B, M, L)
        columns = [STREAMS.index(name) for name in heads]
        weights = self.weights[columns].expand(logits.shape[0], -1)  # `len` would bind a graph to it
        if present is not None:
            weights = weights * present[:, columns]
        shares = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
        absent = (weights == 0).unsqueeze(2)  # whatever stands in its place, even NaN, must not come through
        return (logits.masked_fill(absent, 0.0) * shares.unsqueeze(2)).sum(1)

    def forward(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return (B, L) logits of clips by modality, `rgb` (B, T, 3, H, W) and `flow` (B, T, 2k, H, W)."""
        return self.forward_head(self.forward_features(clips), present=present)

    def contributions(self, clips: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Return (B, 2, L): what each stream adds to each logit, by `modality_contributions`; without any it is 0."""
        features = self.forward_features(clips)
        batch = len(next(iter(clips.values())))
        there = torch.tensor([name in clips for name in STREAMS], device=self.weights.device).expand(batch, -1)
        there = there if present is None else there & present
        return modality_contributions(lambda mask: self.forward_head(features, present=mask), there)


@MODELS.register_family("two_stream_", key="backbone")
def two_stream(
    *,
    backbone: str,
    num_labels: int,
    dropout: float = 0.5,
    flow_channels: int = 10,
    weights: tuple[float, float] = (1.0, 1.0),
    head_std: float = 0.001,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> TwoStream:
    """Build two-stream TSN on any 2D backbone (arXiv:1406.2199): RGB, and stacks of flow (5 pairs: 10 channels)."""
    streams = []
    for channels in (3, flow_channels):
        net = build_backbone(backbone, in_channels=channels, pretrained=pretrained, **(backbone_options or {}))
        streams.append(TemporalSegmentNetwork(net, num_labels, dropout=dropout, head_std=head_std))
    return TwoStream(streams[0], streams[1], weights)


@MODELS.register("two_stream_i3d")
def two_stream_i3d(
    *, num_labels: int, dropout: float = 0.5, weights: tuple[float, float] = (1.0, 1.0), pretrained: bool = False
) -> TwoStream:
    """Build two-stream I3D on Inception-v1 (arXiv:1705.07750, table 1, e): RGB and 2-channel flow.

    With `pretrained`, both start from ImageNet's weights.
    """
    rgb, flow = (
        i3d_inception(num_labels=num_labels, in_channels=channels, dropout=dropout, pretrained=pretrained)
        for channels in (3, 2)
    )
    return TwoStream(rgb, flow, weights)
