"""What models on frame features share: their input, its check, and the widths of YouTube-8M's streams."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from reeltag.models.interface import VideoModel
from reeltag.schema import InputKind

YOUTUBE8M_SIZES = (1024, 128)  # Inception frames and VGGish sound, side by side
YOUTUBE8M_FRAMES = 300


class FeatureModel(VideoModel):
    """A model on features (B, T, D) of frames that were computed before."""

    input_kind: ClassVar[InputKind] = "features"
    feature_sizes: tuple[int, ...]
    num_frames: int = YOUTUBE8M_FRAMES

    @abstractmethod
    def forward_features(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what `forward_head` reads, of features (B, T, D) with mask (B, T)."""

    def forward(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, L) logits of features (B, T, D); `mask` is (B, T) bool, True = real frame, None = all are."""
        return self.forward_head(self.forward_features(clip, mask))

    def blocks(self) -> list[nn.Module]:
        """Return nothing: these models are shallow, there is little to recompute."""
        return []

    def example_input(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Return drawn features (B, T, D) of as many frames as the published videos have."""
        device = next(self.parameters()).device
        return (torch.rand(batch_size, self.num_frames, sum(self.feature_sizes), device=device),)


def check_features(features: Tensor, feature_sizes: Sequence[int]) -> None:
    """Raise ValueError unless features are (B, T, D) with the D of the streams together."""
    if features.ndim != 3 or features.shape[-1] != sum(feature_sizes):
        raise ValueError(
            f"features are (B, T, {sum(feature_sizes)}) for streams of {tuple(feature_sizes)}, "
            f"got {tuple(features.shape)}; set model.feature_sizes to the widths of your features"
        )
