"""NeXtVLAD: each frame is widened, cut into groups, and the groups share one small set of centers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FrameBatchNorm, FramePooling, l2_normalize, widen, without_padding


@LAYERS.register("nextvlad")
class NeXtVLAD(FramePooling):
    """VLAD over groups of a widened frame, each group weighed by its own attention, batch-normalised.

    Paper: Lin, Xiao, Fan. NeXtVLAD: An Efficient Neural Network to Aggregate Frame-level Features for Large-scale
    Video Classification. ECCV workshops 2018, arXiv:1811.05014, section 3.2. Value `d * num_clusters + k` of the output
    is feature d of cluster k. As in the published code each cluster is divided by its norm, the whole is not.

    Departure: batch statistics see real frames alone; the published code lets padded frames into those of the scores.

    Args:
        dim: D, the width of a frame.
        num_clusters: K.
        groups: G, a divisor of expansion * dim.
        expansion: how many times wider a frame becomes.

    Raises:
        ValueError: G does not divide expansion * dim.
    """

    def __init__(self, dim: int, num_clusters: int = 128, *, groups: int = 8, expansion: int = 2) -> None:
        super().__init__()
        wide = expansion * dim
        if groups < 1 or wide % groups:
            raise ValueError(f"groups must divide expansion * dim = {wide}, got {groups}")
        self.groups, self.num_clusters = groups, num_clusters
        self.expand = nn.Linear(dim, wide)
        self.attention = nn.Linear(wide, groups)
        self.assign = nn.Linear(wide, groups * num_clusters, bias=False)
        self.assign_norm = FrameBatchNorm(groups * num_clusters)
        self.centers = nn.Parameter(torch.empty(num_clusters, wide // groups))
        self.out_features = num_clusters * wide // groups
        self.norm = FrameBatchNorm(self.out_features)
        for linear in (self.expand, self.attention, self.assign):
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        for bias in (self.expand.bias, self.attention.bias):
            nn.init.zeros_(bias)
        nn.init.kaiming_normal_(self.centers, nonlinearity="relu")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, K * expansion * D / G)."""
        wide = self.expand(without_padding(x, mask))  # (B, T, E * D)
        attention = without_padding(widen(self.attention(wide)).sigmoid(), mask)  # (B, T, G)
        scores = self.assign_norm(self.assign(wide), mask).unflatten(-1, (self.groups, -1))  # (B, T, G, K)
        assign = (F.softmax(scores, dim=-1) * attention.unsqueeze(-1)).flatten(1, 2)  # (B, T * G, K)
        parts = wide.unflatten(-1, (self.groups, -1)).flatten(1, 2)  # (B, T * G, E * D / G)
        sums = widen(torch.bmm(parts.transpose(1, 2), assign.to(parts.dtype)))  # (B, E * D / G, K)
        vlad = sums.addcmul_(assign.sum(1).unsqueeze(1), self.centers.t().contiguous(), value=-1)
        return self.norm(l2_normalize(vlad, dim=1).flatten(1))
