"""The gate of NeXtVLAD: features through a narrow layer and back to a weight of each, as in squeeze and excitation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FrameBatchNorm, widen


@LAYERS.register("squeeze_gate")
class SqueezeGate(nn.Module):
    """Multiply each feature by sigmoid(relu(norm(x W1)) W2), W1 being `reduction` times narrower than x.

    Paper: Lin, Xiao, Fan. NeXtVLAD. ECCV workshops 2018, arXiv:1811.05014, section 3.3 ("SE Context Gating"), after Hu,
    Shen, Sun. Squeeze-and-Excitation Networks. arXiv:1709.01507. Neither product has a bias, as in the published code.

    Args:
        dim: D, the features to gate.
        reduction: r; the narrow layer has D / r values, 1 at least.

    Raises:
        ValueError: `reduction` is below 1.
    """

    def __init__(self, dim: int, *, reduction: int = 8) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction divides the width and is at least 1, got {reduction}")
        narrow = max(1, dim // reduction)
        self.squeeze = nn.Linear(dim, narrow, bias=False)
        self.norm = FrameBatchNorm(narrow)
        self.excite = nn.Linear(narrow, dim, bias=False)
        self.out_features = dim
        for linear in (self.squeeze, self.excite):
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Gate (B, D)."""
        return x * widen(self.excite(F.relu(self.norm(widen(self.squeeze(x)))))).sigmoid()
