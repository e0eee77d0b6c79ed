"""How features are made small and read back: PCA with whitening and one byte a value, as for YouTube-8M."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from reeltag.data.youtube8m import dequantize, quantize
from reeltag.errors import StoreError
from reeltag.store.atomic import sha256_of, write_atomic

PCA_FILE = "pca.safetensors"
WHITENING_EPS = 1e-4
_TENSORS = ("mean", "eigenvalues", "components", "variance")


@dataclass(frozen=True)
class Pca:
    """Principal components with whitening: (x - mean) E / sqrt(eigenvalues + 1e-4).

    Paper: Abu-El-Haija et al. YouTube-8M. arXiv:1609.08675, section 3.3; 1e-4 is that of the published extractor.

    Attributes:
        mean: (D,) of the features it was fitted on.
        eigenvalues: (K,) variances along the components, falling.
        components: (K, D), orthonormal rows; the largest entry of each is positive, so that a fit has one result.
        variance: () of all D features together, kept or not.
    """

    mean: Tensor
    eigenvalues: Tensor
    components: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, parts: Iterable[Tensor], num_components: int) -> Pca:
        """Fit on parts (N_i, D) of all frames, each read once; sums are taken in float64.

        Raises:
            ValueError: more components than features, or not more frames than components.
        """
        count, total, outer = 0, torch.zeros(()), torch.zeros(())
        for part in parts:
            wide = part.double()
            count, total, outer = count + len(part), total + wide.sum(0), outer + wide.T @ wide
        width = total.shape[0] if total.ndim else 0
        if not 1 <= num_components <= width:
            raise ValueError(f"PCA to {num_components} components: features of {width} allow 1 to {width}")
        if count <= num_components:
            raise ValueError(f"PCA to {num_components} components needs more frames to fit on than that, got {count}")
        mean = total / count
        covariance = outer / count - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        values, rows = values.flip(0)[:num_components].clamp(min=0), vectors.T.flip(0)[:num_components]
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        return cls(mean.float(), values.float(), (rows * largest.sign()).float(), covariance.trace().float())

    @property
    def scale(self) -> Tensor:
        """(K,) what whitening divides by."""
        return (self.eigenvalues + WHITENING_EPS).sqrt()

    @property
    def kept(self) -> float:
        """Share of the variance that the components hold, in [0, 1]."""
        return float(self.eigenvalues.sum() / self.variance.clamp(min=1e-30))

    def whiten(self, features: Tensor) -> Tensor:
        """Return (N, K) whitened components of (N, D) features."""
        return (features.float() - self.mean) @ self.components.T / self.scale

    def restore(self, whitened: Tensor) -> Tensor:
        """Return (N, D): the features of (N, K) components, without what the dropped components held."""
        return whitened.float() * self.scale @ self.components + self.mean

    def save(self, folder: Path) -> str:
        """Write `pca.safetensors` into a folder, whole or not at all, and return its SHA-256."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        write_atomic(folder / PCA_FILE, save(tensors))
        return sha256_of(folder / PCA_FILE)

    @classmethod
    def load(cls, folder: Path, digest: str | None = None) -> Pca:
        """Read `pca.safetensors` of a folder; StoreError when it is missing, damaged or not the one with `digest`."""
        path = folder / PCA_FILE
        if not path.is_file():
            raise StoreError(f"{path} is missing; copy it from the features it was fitted for")
        if digest is not None and sha256_of(path) != digest:
            raise StoreError(f"{path} has changed since it was written (SHA-256 differs); copy it again")
        try:
            tensors = load_file(path)
            return cls(**{name: tensors[name] for name in _TENSORS})
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise StoreError(f"{path} is no readable PCA ({error}); copy it again") from None


@dataclass(frozen=True)
class Coding:
    """What is done to features before they are stored: PCA or none, then one byte or two a value.

    Paper: Abu-El-Haija et al. YouTube-8M. arXiv:1609.08675, section 3.3; bytes are read by its published rule.

    Attributes:
        pca: fitted on the training split, or None.
        quantized: store uint8 in place of float16; needs `pca`, since values are cut off at -2 and 2.
    """

    pca: Pca | None = None
    quantized: bool = False

    def __post_init__(self) -> None:
        if self.quantized and self.pca is None:
            raise ValueError("quantized features need a PCA: values are cut off at -2 and 2, which fits whitened ones")

    def width(self, num_features: int) -> int:
        """Return K, the width after coding features of D values."""
        return num_features if self.pca is None else len(self.pca.eigenvalues)

    def encode(self, features: Tensor) -> Tensor:
        """Return (N, K) uint8 or float16 to be stored, of (N, D) features.

        Raises:
            ValueError: a value is not finite, or too large for float16.
        """
        coded = features.float() if self.pca is None else self.pca.whiten(features)
        stored = coded if self.quantized else coded.half()
        if not bool(stored.isfinite().all()):
            raise ValueError("a feature is not finite, or above 65504, the largest number of float16")
        return torch.from_numpy(quantize(stored.numpy())) if self.quantized else stored

    @staticmethod
    def decode(stored: Tensor) -> Tensor:
        """Return (N, K) float32, what a model is given, of what `encode` returned."""
        return torch.from_numpy(dequantize(stored.numpy())) if stored.dtype == torch.uint8 else stored.float()
