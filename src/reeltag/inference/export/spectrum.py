"""The spectrogram as a convolution: what runtimes without an exact Fourier transform compute as well as torch does."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reeltag.layers.spectrogram import LogMel, SpectrogramSettings
from reeltag.models.interface import VideoModel


class PortableLogMel(LogMel):
    """`LogMel` whose Fourier transform is a convolution with windowed cosines and sines.

    ONNX has a short-time Fourier transform, but onnxruntime's loses three digits where n_fft is no power of two.

    Args:
        settings: of the spectrogram.
    """

    kernel: Tensor

    def __init__(self, settings: SpectrogramSettings) -> None:
        super().__init__(settings)
        n = settings.n_fft
        # k * i modulo n, in whole numbers, keeps the angles exact.
        turns = torch.outer(torch.arange(n // 2 + 1), torch.arange(n)) % n  # (K, n_fft)
        angles = turns.double() * (2 * math.pi / n)
        waves = torch.cat([angles.cos(), angles.sin()]) * self.window.double()
        self.register_buffer("kernel", waves.float().unsqueeze(1), persistent=False)

    def magnitude(self, x: Tensor) -> Tensor:
        """Return the magnitudes (B, n_fft / 2 + 1, T) of the windowed frames of padded waveforms (B, N')."""
        both = F.conv1d(x.unsqueeze(1), self.kernel, stride=self.settings.hop)  # (B, 2 K, T)
        real, imaginary = both.chunk(2, 1)
        return (real.square() + imaginary.square()).sqrt()


def with_portable_spectra(model: VideoModel) -> VideoModel:
    """Return the model, or where it has spectrograms a copy in evaluation mode whose spectrograms are portable."""
    if not any(isinstance(layer, LogMel) for layer in model.modules()):
        return model
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, LogMel):
                parent.add_module(name, PortableLogMel(layer.settings))
    twin.eval()
    return twin
