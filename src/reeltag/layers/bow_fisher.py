"""Descriptors from a fixed codebook: bags of words, VLAD and Fisher vectors of centers or Gaussians fitted before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling, l2_normalize, without_padding

Array = Tensor | np.ndarray | Sequence[Sequence[float]] | Sequence[float]
Norm = Literal["l1", "l2", "none"]


def _codebook(name: str, values: Array, axes: int) -> Tensor:
    tensor = torch.as_tensor(values).detach().to(torch.float32, copy=True)
    if tensor.ndim != axes or not tensor.isfinite().all():
        raise ValueError(f"{name} needs {axes} axes and finite values, got shape {tuple(tensor.shape)}")
    return tensor


def _signed_power(x: Tensor, power: float) -> Tensor:
    return x if power == 1 else x.sign() * x.abs().pow(power)


class _Codebook(FramePooling):
    """A pooling with fixed centers; nothing in it learns, so it works in float32 whatever autocast says."""

    centers: Tensor

    def __init__(self, centers: Array) -> None:
        super().__init__()
        self.register_buffer("centers", _codebook("centers", centers, 2))

    def similarity(self, x: Tensor) -> Tensor:
        """Return (B, T, K): minus half the squared distance to each center, up to a term shared by all centers."""
        return x @ self.centers.t() - self.centers.square().sum(1) / 2

    def nearest(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (B, T, K) with a 1 at the nearest center of each real frame (the first of equals), else 0."""
        return without_padding(F.one_hot(self.similarity(x).argmax(-1), self.centers.shape[0]).float(), mask)


def _scaled(words: Tensor, norm: Norm) -> Tensor:
    if norm == "l2":
        return l2_normalize(words)
    return words / words.sum(1, keepdim=True).clamp(min=1e-12) if norm == "l1" else words


@LAYERS.register("bow")
class BagOfWords(_Codebook):
    """Count how many frames are nearest to each center.

    Paper: Sivic, Zisserman. Video Google. ICCV 2003, section 3.

    Args:
        centers: (K, D), of k-means for instance.
        norm: "l1" gives shares that sum to 1, "l2" norm 1, "none" counts.
    """

    def __init__(self, centers: Array, *, norm: Norm = "l1") -> None:
        super().__init__(centers)
        if norm not in ("l1", "l2", "none"):
            raise ValueError(f"norm is l1, l2 or none, got {norm!r}")
        self.norm: Norm = norm
        self.out_features = self.centers.shape[0]

    def words(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return how much of each word every frame is, (B, T, K), zero for padded frames."""
        return self.nearest(x, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, K) float32."""
        with torch.autocast(x.device.type, enabled=False):
            return _scaled(self.words(without_padding(x, mask).float(), mask).sum(1), self.norm)


@LAYERS.register("soft_bow")
class SoftBagOfWords(BagOfWords):
    """Share each frame among the centers by the softmax of -alpha * squared distance, and sum.

    Paper: van Gemert, Veenman, Smeulders, Geusebroek. Visual Word Ambiguity. TPAMI 2010 ("codeword
    uncertainty") with a Gaussian kernel of variance 1 / (2 * alpha).

    Args:
        centers: (K, D).
        alpha: sharpness, above 0; as it grows, the layer becomes `BagOfWords`.
        norm: as there.
    """

    def __init__(self, centers: Array, *, alpha: float = 1.0, norm: Norm = "l1") -> None:
        super().__init__(centers, norm=norm)
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        self.alpha = alpha

    def words(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return how much of each word every frame is, (B, T, K), zero for padded frames."""
        return without_padding(F.softmax(2 * self.alpha * self.similarity(x), dim=-1), mask)


@LAYERS.register("vlad")
class VLAD(_Codebook):
    """Sum the differences of the frames to their nearest center, per center.

    Paper: Jégou, Douze, Schmid, Pérez. Aggregating local descriptors into a compact image representation. CVPR 2010,
    section 3.1; intra-normalisation from Arandjelović, Zisserman. All about VLAD. CVPR 2013, section 3. The value
    `d * K + k` of the output is feature d of center k, the order of `NetVLAD`.

    Args:
        centers: (K, D).
        intra: divide each center's sum by its own norm first.
        power: signed power of each value before the last norm (0.5 = signed square root); 1 = none.
    """

    def __init__(self, centers: Array, *, intra: bool = False, power: float = 1.0) -> None:
        super().__init__(centers)
        self.intra, self.power = intra, power
        self.out_features = self.centers.numel()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, D * K) float32, of norm 1."""
        with torch.autocast(x.device.type, enabled=False):
            x = without_padding(x, mask).float()
            nearest = self.nearest(x, mask)
            sums = x.transpose(1, 2) @ nearest - nearest.sum(1).unsqueeze(1) * self.centers.t()  # (B, D, K)
            sums = l2_normalize(sums, dim=1) if self.intra else sums
            return l2_normalize(_signed_power(sums.flatten(1), self.power))


@LAYERS.register("fisher_vector")
class FisherVector(FramePooling):
    """Gradient of the frames' mean log likelihood under a Gaussian mixture, divided by its expected size.

    Paper: Perronnin, Sánchez, Mensink. Improving the Fisher Kernel for Large-Scale Image Classification. ECCV 2010,
    sections 2 and 3; Sánchez, Perronnin, Mensink, Verbeek, IJCV 2013, equations 16 to 18. Output: by weight (K values),
    by mean (K * D, Gaussian-major), by deviation (K * D).

    Args:
        weights: (K,) of the mixture, positive; divided by their sum.
        means: (K, D).
        sigmas: (K, D) standard deviations (not variances), positive.
        weight_part: begin with the K values by weight.
        power: signed power of each value; 0.5 with `normalize` is the "improved" Fisher vector, 1 = none.
        normalize: divide by the norm.
        variance_sign: -1 turns the sign of the part by deviation, as scikit-image has it.

    Raises:
        ValueError: shapes do not fit together, or a weight or deviation is not positive.
    """

    log_weights: Tensor
    means: Tensor
    sigmas: Tensor

    def __init__(
        self,
        weights: Array,
        means: Array,
        sigmas: Array,
        *,
        weight_part: bool = True,
        power: float = 0.5,
        normalize: bool = True,
        variance_sign: Literal[1, -1] = 1,
    ) -> None:
        super().__init__()
        share, mean, sigma = (
            _codebook("weights", weights, 1),
            _codebook("means", means, 2),
            _codebook("sigmas", sigmas, 2),
        )
        if mean.shape != sigma.shape or share.shape[0] != mean.shape[0]:
            raise ValueError(
                f"weights are (K,), means and sigmas (K, D); got {tuple(share.shape)}, {tuple(mean.shape)}, "
                f"{tuple(sigma.shape)}"
            )
        if share.min() <= 0 or sigma.min() <= 0:
            raise ValueError(f"weights and sigmas are positive; the smallest are {share.min():g} and {sigma.min():g}")
        self.register_buffer("log_weights", (share / share.sum()).log())
        self.register_buffer("means", mean)
        self.register_buffer("sigmas", sigma)
        self.weight_part, self.power, self.normalize, self.variance_sign = weight_part, power, normalize, variance_sign
        self.out_features = 2 * mean.numel() + (share.shape[0] if weight_part else 0)

    def posteriors(self, x: Tensor) -> Tensor:
        """Return the share of each Gaussian in each frame, (B, T, D) float32 to (B, T, K)."""
        # Seen from the middle of the means, the three terms of the expanded square cancel less.
        origin = self.means.mean(0)
        means, precision = self.means - origin, self.sigmas.square().reciprocal()
        x = x - origin
        distance = x.square() @ precision.t() - 2 * x @ (means * precision).t() + (means.square() * precision).sum(1)
        return F.softmax(self.log_weights - self.sigmas.log().sum(1) - distance / 2, dim=-1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, 2 * K * D), K more with the part by weight; float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = without_padding(x, mask).float()
            posteriors = without_padding(self.posteriors(x), mask)
            count = x.shape[1] if mask is None else mask.sum(1).clamp(min=1)[:, None, None]
            shares = posteriors.sum(1, keepdim=True).transpose(1, 2) / count  # (B, K, 1)
            origin = self.means.mean(0)
            means, x = self.means - origin, x - origin
            first = posteriors.transpose(1, 2) @ x / count  # (B, K, D)
            second = posteriors.transpose(1, 2) @ x.square() / count
            weights = self.log_weights.exp().unsqueeze(-1)
            by_mean = (first - shares * means) / (self.sigmas * weights.sqrt())
            spread = (second - means * (2 * first - shares * means)) / self.sigmas.square() - shares
            by_sigma = self.variance_sign * spread / (weights.sqrt() * math.sqrt(2))
            parts = [by_mean.flatten(1), by_sigma.flatten(1)]
            if self.weight_part:
                real = shares.sum(1, keepdim=True)  # 1, or 0 in a clip without frames
                parts.insert(0, ((shares - real * weights) / weights.sqrt()).flatten(1))
            vector = _signed_power(torch.cat(parts, dim=1), self.power)
            return l2_normalize(vector) if self.normalize else vector
