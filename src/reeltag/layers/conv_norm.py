"""A 2D convolution, its batch norm and a ReLU: the brick of the Inception family."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm2d(nn.Module):
    """Convolution, batch norm, and ReLU unless `relu` is False; padded to keep the size at stride 1 unless told.

    Args:
        in_width: input channels.
        width: output channels.
        kernel: side, or (height, width).
        stride: of both sides.
        padding: None for half the kernel.
        bias: of the convolution.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (sides[0] // 2, sides[1] // 2) if padding is None else (padding, padding)
        self.conv = nn.Conv2d(in_width, width, sides, stride, pad, bias=bias)
        self.bn = nn.BatchNorm2d(width)
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H', W')."""
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x
