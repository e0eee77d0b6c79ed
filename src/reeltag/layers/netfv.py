"""NetFV: Fisher vectors of frames with a learned assignment, centers and deviations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling, l2_normalize, widen, without_padding
from reeltag.layers.netvlad import ClusterScores, assign_softly, intra_then_whole_norm

COUPLING = 0.01  # centers = 0.01 * assignment weights where the published code couples them


@LAYERS.register("netfv")
class NetFV(FramePooling):
    """First and second order differences of softly assigned frames to learned Gaussians, as three matrix products.

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating for video classification. arXiv:1706.06905,
    on NetFV. Output: first order then second order, each with feature d of cluster k at `d * num_clusters + k`,
    each of norm 1.

    Where the published code differs from the paper, it is followed, since its weights need it:

    - the deviation is `covar_weights`^2 + 1e-6, and the second order is divided by the *square* of it;
    - the second order is flattened before its first norm, so it has no intra-normalisation (`second_order_intra=True`
      gives it one, as the first order has);
    - `coupled=True` ties the centers to 0.01 * assignment weights (its default; the winning run set it off).

    Departures: those of `NetRVLAD` (statistics of real frames alone, all frames used).

    Args:
        dim: D, the width of a frame.
        num_clusters: K.
        batch_norm: of the assignment scores; False uses a bias.
        coupled: no centers of their own.
        second_order_intra: normalise the second order per cluster too.
    """

    def __init__(
        self,
        dim: int,
        num_clusters: int = 64,
        *,
        batch_norm: bool = True,
        coupled: bool = False,
        second_order_intra: bool = False,
    ) -> None:
        super().__init__()
        self.assign = ClusterScores(dim, num_clusters, batch_norm)
        std = 1 / math.sqrt(dim)
        self.centers = None if coupled else nn.Parameter(torch.randn(num_clusters, dim) * std)
        self.covar_weights = nn.Parameter(1 + torch.randn(num_clusters, dim) * std)
        self.second_order_intra = second_order_intra
        self.dim, self.num_clusters = dim, num_clusters
        self.out_features = 2 * dim * num_clusters

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, 2 * D * K)."""
        x = without_padding(x, mask)
        assign = assign_softly(self.assign(x, mask), mask)
        weights = assign.to(x.dtype)
        count = assign.sum(1).unsqueeze(1)  # (B, 1, K)
        first = widen(torch.bmm(x.transpose(1, 2), weights))  # (B, D, K)
        second = widen(torch.bmm(x.square().transpose(1, 2), weights))  # (B, D, K)

        centers = (COUPLING * self.assign.linear.weight if self.centers is None else self.centers).t()
        inverse = (self.covar_weights.square() + 1e-6).reciprocal().t()  # (D, K)
        # sum a (x - c)^2 = sum a x^2 - c (2 sum a x - c sum a)
        spread = second - centers * (2 * first - count * centers)
        fv2 = torch.addcmul(-count, spread, inverse.square())
        fv1 = torch.addcmul(first, count, centers, value=-1) * inverse
        whole2 = intra_then_whole_norm(fv2) if self.second_order_intra else l2_normalize(fv2.flatten(1))
        return torch.cat([intra_then_whole_norm(fv1), whole2], dim=1)  # (B, 2 * D * K)
