"""NetFV: Fisher vectors of frames with a learned assignment, centers and deviations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling, l2_normalize, times, widen, without_padding
from reeltag.layers.netvlad import ClusterScores, assign_softly, intra_then_whole_norm

COUPLING = 0.01  # centers = 0.01 * assignment weights where the published code couples them


@LAYERS.register("netfv")
class NetFV(FramePooling):
    """First and second order differences of softly assigned frames to learned Gaussians, as matrix products alone.

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
        count = assign.sum(1).unsqueeze(1)  # (B, 1, K)
        weights = assign.to(x.dtype)
        first = widen(torch.bmm(x.transpose(1, 2), weights))  # (B, D, K), sum of a x
        second = widen(torch.bmm(x.square().transpose(1, 2), weights))  # (B, D, K), sum of a x^2

        centers = COUPLING * self.assign.linear.weight if self.centers is None else self.centers
        centers = centers.t().contiguous()  # a turned view makes every product below slower
        inverse = (self.covar_weights.t().contiguous().square() + 1e-6).reciprocal()  # (D, K)
        square = inverse.square()
        # (sum a x^2 - 2 c sum a x + c^2 sum a) / s^2 - sum a, with what depends on (D, K) alone joined first: the large
        # tensors are passed over as few times as can be.
        fv2 = times(second, square).addcmul_(count, centers.square() * square - 1)
        fv2.addcmul_(first, 2 * centers * square, value=-1)
        fv1 = times(first, inverse).addcmul_(count, centers * inverse, value=-1)
        whole2 = intra_then_whole_norm(fv2) if self.second_order_intra else l2_normalize(fv2.flatten(1))
        return torch.cat([intra_then_whole_norm(fv1), whole2], dim=1)  # (B, 2 * D * K)
