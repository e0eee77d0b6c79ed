"""NetVLAD and its kin: soft-assigned sums of frames per cluster, as two matrix products."""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import MIN_NORM, FrameBatchNorm, FramePooling, times, widen, without_padding


class ClusterScores(nn.Module):
    """Linear scores of each frame for each cluster, with batch norm or a bias.

    Args:
        dim: D, the width of a frame.
        num_clusters: K.
        batch_norm: normalise the scores over real frames (no bias then), as every winning run of the paper did.
    """

    def __init__(self, dim: int, num_clusters: int, batch_norm: bool = True) -> None:
        super().__init__()
        if dim < 1 or num_clusters < 1:
            raise ValueError(f"dim and num_clusters must be at least 1, got {dim} and {num_clusters}")
        self.linear = nn.Linear(dim, num_clusters, bias=not batch_norm)
        self.norm = FrameBatchNorm(num_clusters) if batch_norm else None
        for parameter in self.linear.parameters():
            nn.init.normal_(parameter, std=1 / math.sqrt(dim))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Score (B, T, D) frames without padding; returns (B, T, K) float32."""
        scores = widen(self.linear(x))
        return scores if self.norm is None else self.norm(scores, mask)


def assign_softly(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the clusters, (B, T, K) float32; a padded frame belongs to none."""
    return without_padding(F.softmax(widen(scores), dim=-1), mask)


def intra_then_whole_norm(sums: Tensor) -> Tensor:
    """Divide each cluster's (B, D, K) sum by its own norm, then the whole by its norm; returns (B, D * K).

    Both norms come from the K norms alone, so the large tensor is read twice and written once;
    without gradients it is overwritten.
    """
    norms = torch.linalg.vector_norm(sums, dim=1)  # (B, K)
    scale = norms.clamp(min=MIN_NORM).reciprocal()
    whole = torch.linalg.vector_norm(norms * scale, dim=1, keepdim=True).clamp(min=MIN_NORM)
    return times(sums, (scale / whole).unsqueeze(1)).flatten(1)  # (B, D * K)


@LAYERS.register("netrvlad")
class NetRVLAD(FramePooling):
    """Residual-less VLAD: softly assigned sums of the frames themselves; "LightVLAD" in the winning code.

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating for video classification. arXiv:1706.06905,
    on NetRVLAD. The value `d * num_clusters + k` of the output is feature d of cluster k, the published order.

    Departures: batch statistics see real frames alone, and all real frames are used where the published code draws
    300 with replacement, in evaluation too.

    Args:
        dim: D, the width of a frame.
        num_clusters: K.
        batch_norm: of the assignment scores; False uses a bias.
    """

    def __init__(self, dim: int, num_clusters: int = 64, *, batch_norm: bool = True) -> None:
        super().__init__()
        self.assign = ClusterScores(dim, num_clusters, batch_norm)
        self.dim, self.num_clusters = dim, num_clusters
        self.out_features = dim * num_clusters

    def sums(self, x: Tensor, assign: Tensor) -> Tensor:
        """Sum the frames per cluster: (B, T, D) and (B, T, K) to (B, D, K) float32."""
        return widen(torch.bmm(x.transpose(1, 2), assign.to(x.dtype)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, D * K), of norm 1."""
        x = without_padding(x, mask)
        return intra_then_whole_norm(self.sums(x, assign_softly(self.assign(x, mask), mask)))


@LAYERS.register("netvlad")
class NetVLAD(NetRVLAD):
    """Softly assigned sums of the frames' distances to learned centers, normalised per cluster and as a whole.

    Paper: Arandjelović, Gronat, Torii, Pajdla, Sivic. NetVLAD, arXiv:1511.07247, section 3.1; on video features
    Miech et al., arXiv:1706.06905, whose centers are free of the assignment weights, as here.
    Output order and departures are those of `NetRVLAD`.

    Args:
        dim: D, the width of a frame.
        num_clusters: K.
        batch_norm: of the assignment scores; False uses a bias.
    """

    def __init__(self, dim: int, num_clusters: int = 64, *, batch_norm: bool = True) -> None:
        super().__init__(dim, num_clusters, batch_norm=batch_norm)
        self.centers = nn.Parameter(torch.randn(num_clusters, dim) / math.sqrt(dim))

    @classmethod
    def from_centers(cls, centers: Tensor, alpha: float) -> Self:
        """Start from k-means centers: the assignment is then the softmax of -alpha * squared distance.

        Paper: arXiv:1511.07247, equations 2 and 3: weight 2 * alpha * c, bias -alpha * |c|^2.

        Args:
            centers: (K, D).
            alpha: sharpness, above 0; as it grows, the layer becomes VLAD with intra-normalisation.

        Raises:
            ValueError: `alpha` is not above 0, or `centers` has not two axes.
        """
        if not alpha > 0 or centers.ndim != 2:
            raise ValueError(f"centers are (K, D) and alpha is above 0, got {tuple(centers.shape)} and {alpha}")
        layer = cls(centers.shape[1], centers.shape[0], batch_norm=False)
        with torch.no_grad():
            layer.centers.copy_(centers)
            layer.assign.linear.weight.copy_(2 * alpha * centers)
            layer.assign.linear.bias.copy_(-alpha * centers.square().sum(1))
        return layer

    def sums(self, x: Tensor, assign: Tensor) -> Tensor:
        """Sum the distances to the centers: (B, T, D) and (B, T, K) to (B, D, K) float32."""
        centers = self.centers.t().contiguous()  # (D, K); a turned view is slow to read
        return super().sums(x, assign).addcmul_(assign.sum(1).unsqueeze(1), centers, value=-1)


@LAYERS.register("netvlagd")
class NetVLAGD(NetRVLAD):
    """NetRVLAD whose features of each cluster are weighed by a learned gate in 0..1, in place of centers.

    Source: the code of the winning entry of YouTube-8M 2017 (arXiv:1706.06905); the paper has no row for it.

    Args:
        dim: D, the width of a frame.
        num_clusters: K.
        batch_norm: of the assignment scores; False uses a bias.
    """

    def __init__(self, dim: int, num_clusters: int = 64, *, batch_norm: bool = True) -> None:
        super().__init__(dim, num_clusters, batch_norm=batch_norm)
        self.gates = nn.Parameter(torch.randn(num_clusters, dim) / math.sqrt(num_clusters))

    def sums(self, x: Tensor, assign: Tensor) -> Tensor:
        """Sum the frames per cluster, gated: (B, T, D) and (B, T, K) to (B, D, K) float32."""
        return super().sums(x, assign) * self.gates.t().contiguous().sigmoid()
