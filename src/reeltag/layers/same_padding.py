"""Convolution and pooling with the padding that TensorFlow calls SAME: it depends on the size, the odd one is last."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

Size3 = tuple[int, int, int]


def pad_same(x: Tensor, kernel: Size3, stride: Size3) -> Tensor:
    """Pad (B, C, T, H, W) with zeros so that a valid window gives ceil(size / stride) places on each axis.

    The total is max((ceil(n / s) - 1) * s + k - n, 0), split with the larger half behind.
    """
    padding: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x


class SameMaxPool3d(nn.Module):
    """Max-pool with SAME padding; the padded places are zeros and count as values (the maps here are not negative)."""

    def __init__(self, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, ceil(T / s), ceil(H / s), ceil(W / s))."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)
