"""Transformer fusion: a class token reads the tokens of the present modalities by attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reeltag.models import MODELS
from reeltag.models.fusion import FusionModel, FusionOptions
from reeltag.models.fusion_streams import Streams, build_streams
from reeltag.models.interface import VideoModel


class TransformerFusion(FusionModel):
    """Tokens with an embedding of their modality and a class token through pre-norm transformer layers.

    Paper: Vaswani et al. Attention Is All You Need. arXiv:1706.03762; over one token a modality as in Gabeur, Sun,
    Alahari, Schmid. Multi-modal Transformer for Video Retrieval. ECCV 2020, arXiv:2007.10639, section 3.1 (their expert
    embeddings; time embeddings and further tokens a modality are left out, a stream is pooled before). Absent
    modalities are masked keys, so the class token of a clip without any sees itself alone.

    Args:
        streams: see `FusionModel`, also for the next two and `starts`.
        num_labels: L.
        options: see `FusionOptions`.
        num_layers: of the transformer, at least 1.
        num_heads: a divisor of the width.
        layer_dropout: probability inside the layers, in [0, 1).
    """

    def __init__(
        self,
        streams: Mapping[str, VideoModel],
        num_labels: int,
        options: FusionOptions,
        *,
        num_layers: int = 2,
        num_heads: int = 4,
        layer_dropout: float = 0.0,
        starts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(streams, num_labels, options, starts=starts)
        width = options.width
        if num_layers < 1 or num_heads < 1 or width % num_heads:
            raise ValueError(
                f"num_heads must divide width={width}, with one layer or more; got {num_heads} and {num_layers}"
            )
        self.class_token = nn.Parameter(0.02 * torch.randn(1, width))
        self.modality_embedding = nn.Parameter(0.02 * torch.randn(len(streams), width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, 2 * width, layer_dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def fuse(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Return the class token (B, width) after the last layer."""
        first = self.class_token.expand(tokens.shape[0], 1, -1)
        x = torch.cat([first.to(tokens.dtype), tokens + self.modality_embedding], 1)  # (B, 1 + M, width)
        absent = torch.cat([torch.zeros_like(there[:, :1]), ~there], 1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        return self.norm(x[:, 0])


@MODELS.register("fusion_transformer")
def fusion_transformer(
    *,
    num_labels: int,
    streams: Streams | None = None,
    num_frames: int | None = None,
    width: int = 256,
    num_layers: int = 2,
    num_heads: int = 4,
    layer_dropout: float = 0.0,
    dropout: float = 0.2,
    modality_dropout: float = 0.2,
    alone: float = 0.0,
    pretrained: bool = False,
) -> TransformerFusion:
    """Build a transformer over the tokens of models by name, trained together (arXiv:2007.10639).

    Args:
        num_labels: L.
        streams: see `build_streams`; for example `{rgb: {name: tsm_resnet50, dropout: 0}, audio: {name: logmel_mini}}`.
        num_frames: T, for streams that depend on it.
        width: see `FusionOptions`, also for `dropout`, `modality_dropout` and `alone`.
        num_layers: see `TransformerFusion`, also for the next two.
        num_heads: of each layer.
        layer_dropout: inside the layers.
        dropout: on the fused vector.
        modality_dropout: of whole modalities in training.
        alone: weight of each modality's own loss.
        pretrained: start every stream that can from image weights.
    """
    built, starts = build_streams(streams, num_frames=num_frames, pretrained=pretrained)
    return TransformerFusion(
        built,
        num_labels,
        FusionOptions(width, dropout, modality_dropout, alone),
        num_layers=num_layers,
        num_heads=num_heads,
        layer_dropout=layer_dropout,
        starts=starts,
    )
