"""The non-local block: every place of a clip reads a weighted mean over all places, or over those within reach."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers import LAYERS
from reeltag.layers.local_attention import Reach, local_attention, reach_in_places

Pairing = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
PoolPlace = Literal["none", "before", "after"]
_PAIRINGS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


@LAYERS.register("nonlocal_block")
class NonLocalBlock(nn.Module):
    """x + out(y), where y_i is the mean of g(x_j) over places j, weighted by how i and j match.

    Paper: Wang, Girshick, Gupta, He. Non-local Neural Networks. CVPR 2018, arXiv:1711.07971, section 3. With `reach`:
    the masked non-local block of Qiniu's ActivityNet 2018 report, eq. 4, with the softmax over the allowed places alone
    (the report prints no normaliser).

    Args:
        channels: C.
        inner: channels of theta, phi and g; half of C when None.
        pairing: `gaussian` (softmax of x_i . x_j), `embedded_gaussian` (softmax of theta_i . phi_j), `dot_product`
            (theta_i . phi_j over the number of places) or `concatenation` (ReLU of a weight on [theta_i, phi_j], over
            the number of places).
        scale: multiply the dot products of the softmax pairings by (their length) ^ -1/2. Published code differs:
            PySlowFast and PyTorchVideo do, TSM and MMAction2 do not.
        pool: max-pool of 2 x 2 pixels on what phi and g read (`before`, PySlowFast, PyTorchVideo) or on what they give
            (`after`, TSM, MMAction2): not the same function. `none` keeps all places.
        norm: batch norm after the output convolution, starting at zero; without it the convolution starts at zero. Both
            make the block the identity at first.
        out_bias: bias of the output convolution; MMAction2 has none beside its norm.
        bn_eps: of the norm.
        reach: (dt, dh, dw) of the masked form: whole numbers of places, or shares of T, H and W as floats; then there
            is no pool, and the pairing is one of the softmax pairings.
    """

    def __init__(
        self,
        channels: int,
        *,
        inner: int | None = None,
        pairing: Pairing = "embedded_gaussian",
        scale: bool = False,
        pool: PoolPlace = "after",
        norm: bool = True,
        out_bias: bool = True,
        bn_eps: float = 1e-5,
        reach: Reach | None = None,
    ) -> None:
        super().__init__()
        if pairing not in _PAIRINGS or pool not in ("none", "before", "after"):
            raise ValueError(
                f"pairing is one of {', '.join(_PAIRINGS)}, pool none, before or after; got {pairing!r}, {pool!r}"
            )
        if reach is not None:
            reach_in_places(reach, (1, 1, 1))
            if pool != "none" or "gaussian" not in pairing:
                raise ValueError(f"a masked block has pool 'none' and a gaussian pairing, got {pool!r} and {pairing!r}")
        width = inner or max(1, channels // 2)
        self.pairing: Pairing = pairing
        self.reach = reach
        self.scale = ((channels if pairing == "gaussian" else width) ** -0.5) if scale else 1.0
        self.pool_place: PoolPlace = pool
        self.pool = nn.MaxPool3d((1, 2, 2)) if pool != "none" else nn.Identity()
        self.g = nn.Conv3d(channels, width, 1)
        if pairing != "gaussian":
            self.theta = nn.Conv3d(channels, width, 1)
            self.phi = nn.Conv3d(channels, width, 1)
        if pairing == "concatenation":
            self.pair = nn.Linear(2 * width, 1, bias=False)
        self.out = nn.Conv3d(width, channels, 1, bias=out_bias)
        self.norm = nn.BatchNorm3d(channels, eps=bn_eps) if norm else nn.Identity()
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        last = self.norm if isinstance(self.norm, nn.BatchNorm3d) else self.out
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta (B, D, T, H, W), and phi and g after their pool."""
        seen = self.pool(x) if self.pool_place == "before" else x
        theta = x if self.pairing == "gaussian" else self.theta(x)
        phi, g = (seen if self.pairing == "gaussian" else self.phi(seen)), self.g(seen)
        if self.pool_place == "after":
            phi, g = self.pool(phi), self.pool(g)
        return theta, phi, g

    def attend(self, x: Tensor) -> Tensor:
        """Return y (B, inner, T, H, W)."""
        theta, phi, g = self.project(x)
        if self.reach is not None:
            return local_attention(theta, phi, g, self.reach, scale=self.scale)
        queries, keys, values = (each.flatten(2).transpose(1, 2) for each in (theta, phi, g))  # (B, N, D), (B, M, D)
        if self.pairing in ("gaussian", "embedded_gaussian"):
            q, k, v = (each.unsqueeze(1) for each in (queries, keys, values))  # one head
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale).squeeze(1)
        elif self.pairing == "dot_product":
            y = _dot_product(queries, keys, values)
        else:
            y = self._concatenation(queries, keys) @ values / keys.shape[1]
        return y.transpose(1, 2).unflatten(2, x.shape[2:])

    def _concatenation(self, queries: Tensor, keys: Tensor) -> Tensor:
        on_query, on_key = self.pair.weight.chunk(2, dim=1)  # (1, D) each
        return F.relu(F.linear(queries, on_query) + F.linear(keys, on_key).transpose(1, 2))  # (B, N, M)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) of features of the same shape."""
        if x.ndim != 5:
            raise ValueError(f"a non-local block takes (B, C, T, H, W), got shape {tuple(x.shape)}")
        y: Tensor = self.norm(self.out(self.attend(x)))
        return x + y


def _dot_product(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return (Q K^T) V / M in the cheaper order: there is no softmax between, so the product may start at the right."""
    places, width = keys.shape[1:]
    scaled = values / places
    if width < places:
        return queries @ (keys.transpose(1, 2) @ scaled)
    return (queries @ keys.transpose(1, 2)) @ scaled


class AfterBlock(nn.Module):
    """A residual block followed by a non-local block, at the block's place in a network of either kind.

    In a 2D network the frames of a clip are brought together for the non-local block alone. The names `block` and `nl`
    are those of published TSM weights.

    Args:
        block: the residual block.
        nl: the non-local block.
        clip: for a 2D network, where the frames a clip stand (`layers.temporal_shift.ClipLength`).
    """

    def __init__(self, block: nn.Module, nl: nn.Module, clip: object | None = None) -> None:
        super().__init__()
        self.block = block
        self.nl = nl
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W), or (B * T, C, H, W) in a 2D network."""
        x = self.block(x)
        if x.ndim == 5:
            return torch.as_tensor(self.nl(x))
        frames = int(getattr(self.clip, "num_frames", 1))
        clips = x.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
        return torch.as_tensor(self.nl(clips)).transpose(1, 2).flatten(0, 1)
