"""Gated fusion: each modality says something, and gates that see all of them say how much of it counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reeltag.models import MODELS
from reeltag.models.fusion import FusionModel, FusionOptions
from reeltag.models.fusion_streams import Streams, build_streams
from reeltag.models.interface import VideoModel


class GatedFusion(FusionModel):
    """The sum over the present modalities of gate * tanh(token); a gate in 0..1 for every value sees all tokens.

    Paper: Arevalo, Solorio, Montes-y-Gomez, Gonzalez. Gated Multimodal Units for Information Fusion. ICLR workshop
    2017, arXiv:1702.01992, section 3.1, the form for any number of modalities. Departures: a layer norm of each
    stream's features; and the gates also see which modalities there are, so that an absent one is not taken for one
    that says nothing.

    Arguments and attributes are those of `FusionModel`.
    """

    def __init__(
        self,
        streams: Mapping[str, VideoModel],
        num_labels: int,
        options: FusionOptions,
        *,
        starts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(streams, num_labels, options, starts=starts)
        wide = len(streams) * options.width
        self.gate = nn.Linear(wide + len(streams), wide)

    def gates(self, said: Tensor, there: Tensor) -> Tensor:
        """Return the gates (B, M, width) in 0..1 of what the modalities say (B, M, width), 0 where they are absent."""
        context = torch.cat([said.flatten(1), there.to(said.dtype)], 1)
        return self.gate(context).sigmoid().unflatten(1, said.shape[1:]) * there.unsqueeze(2)

    def fuse(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Return the gated sum (B, width); zeros for a clip without any modality."""
        said = tokens.tanh()
        return (self.gates(said, there) * said).sum(1)


@MODELS.register("fusion_gated")
def fusion_gated(
    *,
    num_labels: int,
    streams: Streams | None = None,
    num_frames: int | None = None,
    width: int = 256,
    dropout: float = 0.2,
    modality_dropout: float = 0.2,
    alone: float = 0.0,
    pretrained: bool = False,
) -> GatedFusion:
    """Build a gated fusion (arXiv:1702.01992) of models by name, trained together.

    Args:
        num_labels: L.
        streams: see `build_streams`; for example `{rgb: {name: tsm_resnet50, dropout: 0}, audio: {name: logmel_mini}}`.
        num_frames: T, for streams that depend on it.
        width: see `FusionOptions`, also for the next three.
        dropout: on the fused vector.
        modality_dropout: of whole modalities in training.
        alone: weight of each modality's own loss.
        pretrained: start every stream that can from image weights.
    """
    built, starts = build_streams(streams, num_frames=num_frames, pretrained=pretrained)
    return GatedFusion(built, num_labels, FusionOptions(width, dropout, modality_dropout, alone), starts=starts)
