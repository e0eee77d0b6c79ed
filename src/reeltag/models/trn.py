"""TRN: one 2D backbone on every frame, and relations among the frames' features in place of their mean."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reeltag.layers.temporal_relation import Evaluation, TemporalRelation
from reeltag.models import MODELS
from reeltag.models.frame_network import FrameNetwork
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.interface import VideoModel, clip_check


class TemporalRelationNetwork(FrameNetwork):
    """A 2D backbone on T frames, dropout, a projection of each frame, and temporal relations.

    Paper: Zhou, Andonian, Oliva, Torralba. Temporal Relational Reasoning in Videos. ECCV 2018, arXiv:1711.08496.

    Args:
        backbone: the frame network.
        num_labels: L.
        num_frames: T.
        multi_scale: relations of T, T-1, ..., 2 frames; else of all T frames alone.
        project_dim: width of a frame's features in the relations.
        hidden: width of the relation networks; None for the published 256 (multi-scale) or 512 (single).
        evaluation: which relations are summed in evaluation, see `TemporalRelation`; training draws them.
        seed: of the draw of `evaluation: fixed`.
        dropout: probability on the pooled features, in [0, 1).
        head_std: deviation of the projection's weights, 0.001 as published for pretrained backbones. The relation
            networks start as PyTorch starts linear layers, as published.
    """

    classifier: TemporalRelation

    def __init__(
        self,
        backbone: ImageBackbone,
        num_labels: int,
        *,
        num_frames: int = 8,
        multi_scale: bool = True,
        project_dim: int = 256,
        hidden: int | None = None,
        evaluation: Evaluation = "mean",
        seed: int = 0,
        dropout: float = 0.8,
        head_std: float = 0.001,
    ) -> None:
        super().__init__(backbone)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if num_frames < 2:
            raise ValueError(f"relations need at least 2 frames a clip, got {num_frames}")
        self.num_frames = num_frames
        self.clip_shape = (num_frames, *self.clip_shape[1:])
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(backbone.num_features, project_dim)
        nn.init.normal_(self.project.weight, std=head_std)
        nn.init.zeros_(self.project.bias)
        self.classifier = TemporalRelation(
            project_dim,
            num_frames,
            num_labels,
            hidden=hidden or (256 if multi_scale else 512),
            scales=None if multi_scale else (num_frames,),
            evaluation=evaluation,
            seed=seed,
        )
        self.num_labels = num_labels
        self.num_features = self.classifier.out_features

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, T, D, h, w) of a clip (B, T, C, H, W) with the T that the model is made for."""
        clip_check(clip)
        if clip.shape[1] != self.num_frames:
            raise ValueError(
                f"this TRN is made for {self.num_frames} frames a clip, got {clip.shape[1]}; build it with num_frames="
            )
        return super().forward_features(clip)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or with `pre_logits` the (B, D) hidden units, summed over each scale's relations."""
        frames = self.project(self.dropout(self.pool_frames(features)))  # (B, T, project_dim)
        pooled = self.classifier.pool(frames)
        return pooled if pre_logits else self.classifier.classify(pooled)

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the last layer of every scale; the relation networks stay."""
        self.classifier.reset(num_labels)
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the biases of the scales so that they sum to (L,) `logits`."""
        self.classifier.set_bias(logits)


@MODELS.register_family("trn_", key="backbone")
def trn(
    *,
    backbone: str,
    num_labels: int,
    num_frames: int = 8,
    project_dim: int = 256,
    hidden: int = 256,
    evaluation: Evaluation = "mean",
    seed: int = 0,
    dropout: float = 0.8,
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build multi-scale TRN on any 2D backbone by name (arXiv:1711.08496)."""
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    return TemporalRelationNetwork(
        net,
        num_labels,
        num_frames=num_frames,
        project_dim=project_dim,
        hidden=hidden,
        evaluation=evaluation,
        seed=seed,
        dropout=dropout,
        head_std=head_std,
    )


@MODELS.register_family("trn_single_", key="backbone")
def trn_single(
    *,
    backbone: str,
    num_labels: int,
    num_frames: int = 8,
    project_dim: int = 256,
    hidden: int = 512,
    dropout: float = 0.8,
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build single-scale TRN on any 2D backbone by name: one relation of all frames in order (arXiv:1711.08496)."""
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    return TemporalRelationNetwork(
        net,
        num_labels,
        num_frames=num_frames,
        multi_scale=False,
        project_dim=project_dim,
        hidden=hidden,
        dropout=dropout,
        head_std=head_std,
    )
