"""Deep bags of frames: learned words, a response per frame, and a maximum, mean or sum over the frames."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import (
    FrameBatchNorm,
    FramePooling,
    l2_normalize,
    masked_max,
    masked_mean,
    widen,
    without_padding,
)
from reeltag.layers.netvlad import ClusterScores, assign_softly

Activation = Literal["relu6", "sigmoid", "none"]
Pool = Literal["max", "average", "average_and_max"]


@LAYERS.register("dbof")
class DBoF(FramePooling):
    """Deep bag of frames: an up-projection of each frame, an activation, and pooling over the frames.

    Paper: Abu-El-Haija et al. YouTube-8M: A Large-Scale Video Classification Benchmark. arXiv:1609.08675, section
    4.1.2. `pool="average_and_max", activation="none"` is the variant of the winning code of 2017 (arXiv:1706.06905),
    which never runs its activation because the argument's name is used twice; its two halves have norm 1 each.

    Args:
        dim: D, the width of a frame.
        num_clusters: K, the words.
        activation: of the responses.
        pool: over the frames; "average_and_max" joins both, each divided by its norm.
        batch_norm: of the responses; False uses a bias.
    """

    def __init__(
        self,
        dim: int,
        num_clusters: int = 1024,
        *,
        activation: Activation = "relu6",
        pool: Pool = "max",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ("relu6", "sigmoid", "none") or pool not in ("max", "average", "average_and_max"):
            raise ValueError(
                f"activation is relu6, sigmoid or none and pool is max, average or average_and_max; "
                f"got {activation!r} and {pool!r}"
            )
        self.words = ClusterScores(dim, num_clusters, batch_norm)
        self.activation, self.pool = activation, pool
        self.out_features = num_clusters * (2 if pool == "average_and_max" else 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, K), or (B, 2 * K) for "average_and_max"."""
        responses = self.words(without_padding(x, mask), mask)  # (B, T, K)
        if self.activation != "none":
            responses = F.relu6(responses) if self.activation == "relu6" else responses.sigmoid()
        if self.pool == "max":
            return masked_max(responses, mask)
        average = masked_mean(responses, mask)
        if self.pool == "average":
            return average
        return torch.cat([l2_normalize(average), l2_normalize(masked_max(responses, mask))], dim=1)


@LAYERS.register("soft_dbow")
class SoftDBoW(FramePooling):
    """Soft deep bag of words: the sum over frames of a softmax over learned words, divided by its norm.

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating. arXiv:1706.06905, on Soft-DBoW.

    Args:
        dim: D, the width of a frame.
        num_clusters: K, the words.
        batch_norm: of the scores; False uses a bias.
        with_max: append the largest assignment of each word over the frames, divided by its own norm.
    """

    def __init__(self, dim: int, num_clusters: int = 1024, *, batch_norm: bool = True, with_max: bool = False) -> None:
        super().__init__()
        self.assign = ClusterScores(dim, num_clusters, batch_norm)
        self.with_max = with_max
        self.out_features = num_clusters * (2 if with_max else 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, K), or (B, 2 * K) with the maxima."""
        assign = assign_softly(self.assign(without_padding(x, mask), mask), mask)
        total = l2_normalize(assign.sum(1))
        return torch.cat([total, l2_normalize(assign.amax(1))], dim=1) if self.with_max else total


@LAYERS.register("gated_dbow")
class GatedDBoW(FramePooling):
    """Soft deep bag of words whose sums are gated by its maxima, through a bottleneck as wide as a frame.

    Source: "GatedDBoF" in the code of the winning entry of YouTube-8M 2017 (arXiv:1706.06905).

    Args:
        dim: D, the width of a frame and of the bottleneck.
        num_clusters: K, the words.
        batch_norm: of the scores and of the gate; False uses biases.
    """

    def __init__(self, dim: int, num_clusters: int = 1024, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.assign = ClusterScores(dim, num_clusters, batch_norm)
        self.reduce = nn.Linear(num_clusters, dim, bias=False)
        self.expand = nn.Linear(dim, num_clusters, bias=not batch_norm)
        self.gate_norm = FrameBatchNorm(num_clusters) if batch_norm else nn.Identity()
        nn.init.normal_(self.reduce.weight, std=1 / math.sqrt(dim))
        for parameter in self.expand.parameters():
            nn.init.normal_(parameter, std=1 / math.sqrt(dim))
        self.out_features = num_clusters

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, K), of norm 1."""
        assign = assign_softly(self.assign(without_padding(x, mask), mask), mask)
        gate = self.gate_norm(widen(self.expand(self.reduce(l2_normalize(assign.amax(1))))))
        return l2_normalize(gate.sigmoid() * assign.sum(1))
