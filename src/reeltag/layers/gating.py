"""Gates: context gating with its variants, and gated linear units."""

from __future__ import annotations

import math

from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FrameBatchNorm, widen, without_padding


@LAYERS.register("context_gating")
class ContextGating(nn.Module):
    """Multiply each feature by a gate in 0..1 that sees all features: x * sigmoid(norm(x W)) or x * sigmoid(x W + b).

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating. arXiv:1706.06905, on Context Gating.

    Args:
        dim: D, the features to gate.
        batch_norm: of the gate's scores, in place of a bias.
        remove_diagonal: a feature does not see itself: W counts without its diagonal, before the norm.
        source_dim: width of another vector that the gate is computed from; None = the features themselves.

    Raises:
        ValueError: `remove_diagonal` with another source.
    """

    def __init__(
        self,
        dim: int,
        *,
        batch_norm: bool = True,
        remove_diagonal: bool = False,
        source_dim: int | None = None,
    ) -> None:
        super().__init__()
        if remove_diagonal and source_dim not in (None, dim):
            raise ValueError(f"remove_diagonal needs a square weight, got source_dim={source_dim} for dim={dim}")
        self.linear = nn.Linear(source_dim or dim, dim, bias=not batch_norm)
        self.norm = FrameBatchNorm(dim) if batch_norm else None
        self.remove_diagonal = remove_diagonal
        self.out_features = dim
        for parameter in self.linear.parameters():
            nn.init.normal_(parameter, std=1 / math.sqrt(dim))

    def scores(self, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the gates before the sigmoid, float32, for a source (B, D) or (B, T, D)."""
        scores = widen(self.linear(source))
        if self.remove_diagonal:
            scores = scores - source * self.linear.weight.diagonal()
        return scores if self.norm is None else self.norm(scores, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, source: Tensor | None = None) -> Tensor:
        """Gate (B, D), or (B, T, D) with mask (B, T); padded frames come out as zeros."""
        if mask is not None:
            x = without_padding(x, mask)
            source = None if source is None else without_padding(source, mask)
        return x * self.scores(x if source is None else source, mask).sigmoid()


@LAYERS.register("glu")
class GLU(nn.Module):
    """Gated linear unit: (x W1 + b1) * sigmoid(x W2 + b2); the first half of the weight is the value.

    Paper: Dauphin, Fan, Auli, Grangier. Language Modeling with Gated Convolutional Networks. arXiv:1612.08083,
    section 2.

    Args:
        dim: D, the input features.
        out_features: the output features; None = D.
    """

    def __init__(self, dim: int, out_features: int | None = None) -> None:
        super().__init__()
        self.out_features = out_features or dim
        self.linear = nn.Linear(dim, 2 * self.out_features)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn (..., D) into (..., out_features); with a mask (B, T), padded frames of (B, T, D) come out as zeros."""
        value, gate = self.linear(without_padding(x, mask)).chunk(2, dim=-1)
        return without_padding(value * widen(gate).sigmoid(), mask)
