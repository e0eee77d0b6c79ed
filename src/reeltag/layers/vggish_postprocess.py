"""What turns VGGish embeddings into the features of AudioSet and YouTube-8M: principal components, clipped, 8 bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.spectrogram import full_precision

Rounding = Literal["nearest", "down"]
LOW, HIGH = -2.0, 2.0
SIZE = 128


@LAYERS.register("vggish_postprocess")
class VggishPostprocess(nn.Module):
    """Whitened principal components of embeddings, clipped to [-2, 2].

    Source: the published VGGish post-processing (Hershey et al. CNN Architectures for Large-Scale Audio Classification.
    ICASSP 2017, arXiv:1609.09430; Gemmeke et al. Audio Set. ICASSP 2017). Before its tensors are loaded the layer is
    the identity and a clip. They are buffers: nothing here is trained.
    """

    pca_eigen_vectors: Tensor
    pca_means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pca_eigen_vectors", torch.eye(SIZE))  # a component a row
        self.register_buffer("pca_means", torch.zeros(SIZE, 1))

    def components(self, embeddings: Tensor) -> Tensor:
        """Return the components (..., 128) of embeddings (..., 128), float32, before the clip."""
        with full_precision(embeddings):  # 8 bits are cut from what comes out
            centred = embeddings.float() - self.pca_means.squeeze(1)
            return centred @ self.pca_eigen_vectors.T

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the components (..., 128) in [-2, 2]."""
        return self.components(embeddings).clamp(LOW, HIGH)

    def levels(self, embeddings: Tensor, rounding: Rounding = "down") -> Tensor:
        """Return the components as uint8 (..., 128): 0 is -2 and 255 is 2.

        Args:
            embeddings: (..., 128).
            rounding: `down` as the published TensorFlow code, which made AudioSet's and YouTube-8M's features, or
                `nearest` (half to even) as its PyTorch port.
        """
        steps = (self(embeddings) - LOW) * (255 / (HIGH - LOW))
        return (steps.round() if rounding == "nearest" else steps.floor()).to(torch.uint8)


def features_of_levels(levels: Tensor) -> Tensor:
    """Return the features that readers of AudioSet and YouTube-8M make of levels: float32, the middle of each step."""
    return levels.float() * ((HIGH - LOW) / 255) + ((HIGH - LOW) / 512 + LOW)
