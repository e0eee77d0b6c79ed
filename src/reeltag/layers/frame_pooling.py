"""Mean, maximum and attention over frames, and the attentive probe of learned queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling, masked_max, masked_mean, softmax_over_frames, widen, without_padding


@LAYERS.register("mean_pool")
class MeanPool(FramePooling):
    """Average the real frames: with a linear layer behind it, the frame baseline of YouTube-8M, arXiv:1609.08675.

    Args:
        dim: D, the width of a frame.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_features = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, D) float32."""
        return masked_mean(x, mask)


@LAYERS.register("max_pool")
class MaxPool(FramePooling):
    """Take the largest value of each feature over the real frames.

    Args:
        dim: D, the width of a frame.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_features = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, D)."""
        return masked_max(x, mask)


@LAYERS.register("attention_pool")
class AttentionPool(FramePooling):
    """Average frames by weights that a small network gives them: softmax over frames of w tanh(V x).

    Paper: Ilse, Tomczak, Welling. Attention-based Deep Multiple Instance Learning. arXiv:1802.04712, equations 8 and 9.

    Args:
        dim: D, the width of a frame.
        hidden: width of the small network.
        gated: multiply its hidden values by sigmoid(U x), equation 9.
    """

    def __init__(self, dim: int, *, hidden: int = 128, gated: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden) if gated else None
        self.score = nn.Linear(hidden, 1, bias=False)  # a bias would cancel in the softmax
        self.out_features = dim

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weight of each frame, (B, T) float32, 0 for padded frames."""
        x = without_padding(x, mask)
        hidden = self.hidden(x).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(x).sigmoid()
        return softmax_over_frames(self.score(hidden).squeeze(-1), mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, D) float32."""
        weights = self.weights(x, mask)
        return widen(torch.bmm(weights.unsqueeze(1).to(x.dtype), without_padding(x, mask)).squeeze(1))


@LAYERS.register("attentive_probe")
class AttentiveProbe(FramePooling):
    """Learned queries look at the frames by cross-attention; a residual MLP follows, as in one transformer block.

    Paper: Chen et al. Context Autoencoder. arXiv:2202.03026, "attentive probing"; on video Bardes et al. V-JEPA,
    arXiv:2404.08471: one query, one block. Departure: keys have no bias (it cancels in the softmax).

    Args:
        dim: D, the width of a frame.
        num_queries: Q; their answers are joined.
        num_heads: of the attention, a divisor of D.
        mlp_ratio: hidden width of the MLP in multiples of D; 0 leaves the MLP out.

    Raises:
        ValueError: `num_heads` does not divide D.
    """

    def __init__(self, dim: int, *, num_queries: int = 1, num_heads: int = 8, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if num_queries < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim={dim}, got {num_heads}, with {num_queries} queries")
        self.num_heads = num_heads
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim))
        self.frame_norm = nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim)
        self.to_key = nn.Linear(dim, dim, bias=False)
        self.to_value = nn.Linear(dim, dim)
        self.project = nn.Linear(dim, dim)
        self.mlp: nn.Module | None = None
        if mlp_ratio:
            wide = int(dim * mlp_ratio)
            self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))
        self.out_features = num_queries * dim

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, D / heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, Q * D)."""
        x = self.frame_norm(without_padding(x, mask))
        allowed = None
        if mask is not None:  # a clip without frames looks at zeros rather than at nothing, which would be NaN
            allowed = (mask | ~mask.any(1, keepdim=True))[:, None, None]  # (B, 1, 1, T)
        query, key, value = (
            self._heads(self.to_query(self.queries).unsqueeze(0)).expand(x.shape[0], -1, -1, -1),  # the same for all
            self._heads(self.to_key(x)),
            self._heads(self.to_value(x)),
        )
        looked = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        answers = self.queries + self.project(looked.transpose(1, 2).flatten(2))  # (B, Q, D)
        if self.mlp is not None:
            answers = answers + self.mlp(answers)
        return widen(answers.flatten(1))
