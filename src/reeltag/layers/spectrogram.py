"""Log-mel spectrograms and MFCC as modules: the first step inside models of sound, so that waveforms travel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.errors import UnknownName
from reeltag.layers import LAYERS
from reeltag.layers.mel_filterbank import MelScale, TriangleNorm, mel_filterbank
from reeltag.registry import close_name

Padding = Literal["zeros", "reflect", "none"]
Log = Literal["decibel", "natural"]


@dataclass(frozen=True)
class SpectrogramSettings:
    """How a waveform becomes a log-mel spectrogram.

    Attributes:
        rate_hz: of the waveform.
        n_fft: points of the transform; `window`: samples of the periodic Hann window, padded with zeros to `n_fft`.
        hop: samples from one frame to the next.
        n_mels: F, bands; `f_min_hz`, `f_max_hz`: their range, up to half the rate when None.
        scale: `slaney` (linear below 1 kHz) or `htk` (2595 log10(1 + f / 700)).
        norm: `area` (each triangle has area one, in Hz) or `peak` (its top is one).
        linear_in: whether the triangles are straight over frequency in `hz` or over `mel`.
        power: of the magnitude, 2 for energy.
        padding: frames are centred on their time with `zeros` or `reflect`ed samples around the clip; with `none` the
            first frame begins at the first sample, and samples that fill no frame are dropped.
        log: `decibel` is 10 log10(max(x, floor)); `natural` is ln(x + floor).
        floor: see `log`.
        top_db: decibels more than this below the clip's maximum are raised to it; None keeps them.
    """

    rate_hz: int = 22050
    n_fft: int = 2048
    window: int = 2048
    hop: int = 512
    n_mels: int = 128
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    scale: MelScale = "slaney"
    norm: TriangleNorm = "area"
    linear_in: Literal["hz", "mel"] = "hz"
    power: float = 2.0
    padding: Padding = "zeros"
    log: Log = "decibel"
    floor: float = 1e-10
    top_db: float | None = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.window <= self.n_fft or self.hop < 1 or self.n_mels < 1:
            raise ValueError(f"window must be in 1..n_fft, hop and n_mels above 0; got {self}")
        top = self.f_max_hz or self.rate_hz / 2
        if not 0 <= self.f_min_hz < top <= self.rate_hz / 2:
            raise ValueError(
                f"mel bands must lie in 0..{self.rate_hz / 2:g} Hz, half the rate; got {self.f_min_hz:g}..{top:g}"
            )

    def num_frames(self, num_samples: int) -> int:
        """Return the frames T that `num_samples` give."""
        if self.padding == "none":
            return max(0, 1 + (num_samples - self.window) // self.hop)
        return 1 + num_samples // self.hop


# Named after the systems that use them. VGGish: arXiv:1609.09430 and its published front end (magnitude, HTK bands that
# are straight over mel, ln(x + 0.01), no padding). PANNs: arXiv:1912.10211, table 1's 32 kHz setting. `librosa` is the
# default of the library of that name at its own rate; `speech` its settings for 16 kHz; `freesound` at 44.1 kHz.
PRESETS = {
    "vggish": SpectrogramSettings(
        16000, 512, 400, 160, 64, 125.0, 7500.0, "htk", "peak", "mel", 1.0, "none", "natural", 0.01, None
    ),
    "panns": SpectrogramSettings(32000, 1024, 1024, 320, 64, 50.0, 14000.0, padding="reflect", top_db=None),
    "librosa": SpectrogramSettings(),
    "speech": SpectrogramSettings(16000, 400, 400, 160, 64),
    "freesound": SpectrogramSettings(44100, 2048, 2048, 512, 128, 20.0),
}


def preset(name: str, **changes: Any) -> SpectrogramSettings:
    """Return the settings called `name` with some of them changed.

    Raises:
        UnknownName: no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise UnknownName(
            f"No spectrogram preset is called {name!r}. {close_name(name, list(PRESETS))}"
            f"There are {', '.join(PRESETS)}."
        )
    return replace(PRESETS[name], **changes)


def full_precision(x: Tensor) -> torch.autocast:
    """Return the context in which what is computed from `x` is not narrowed by autocast."""
    kind = x.device.type
    return torch.autocast("cpu" if kind == "meta" else kind, enabled=False)  # shapes alone have no autocast


@LAYERS.register("log_mel")
class LogMel(nn.Module):
    """Waveforms (B, N) to log-mel spectrograms (B, F, T), in float32 also under autocast.

    Args:
        settings: a preset's name, or settings.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, settings: str | SpectrogramSettings = "librosa") -> None:
        super().__init__()
        self.settings = preset(settings) if isinstance(settings, str) else settings
        s = self.settings
        window = torch.hann_window(s.window, periodic=True, dtype=torch.float64)
        before = (s.n_fft - s.window) // 2
        self.register_buffer("window", F.pad(window, (before, s.n_fft - s.window - before)).float(), persistent=False)
        filters = mel_filterbank(
            s.rate_hz, s.n_fft, s.n_mels, s.f_min_hz, s.f_max_hz, scale=s.scale, norm=s.norm, linear_in=s.linear_in
        )
        self.register_buffer("filters", filters.float(), persistent=False)

    def mel_power(self, waveform: Tensor) -> Tensor:
        """Return the mel spectrogram (B, F, T) before the logarithm.

        Raises:
            ValueError: not (B, N), or too few samples for a frame.
        """
        if waveform.ndim != 2:
            raise ValueError(f"a waveform is (B, N), got shape {tuple(waveform.shape)}")
        s = self.settings
        with full_precision(waveform):
            spectrum = self.magnitude(self._padded(waveform.float()))
            return self.filters @ (spectrum if s.power == 1 else spectrum**s.power)  # (B, F, T)

    def magnitude(self, x: Tensor) -> Tensor:
        """Return the magnitudes (B, n_fft / 2 + 1, T) of the windowed frames of padded waveforms (B, N')."""
        s = self.settings
        return torch.stft(x, s.n_fft, s.hop, window=self.window, center=False, return_complex=True).abs()

    def _padded(self, x: Tensor) -> Tensor:
        s, count = self.settings, x.shape[1]
        if s.padding == "none":
            if count < s.window:
                raise ValueError(f"{count} samples are less than one frame of {s.window}; pad the clip first")
            spare = s.n_fft - s.window  # the window sits in the middle of n_fft samples
            return F.pad(x, (spare // 2, spare - spare // 2))
        half = s.n_fft // 2
        if s.padding == "zeros":
            return F.pad(x, (half, half))
        if count <= half:
            raise ValueError(f"{count} samples cannot be reflected by {half}; pad the clip first")
        return F.pad(x.unsqueeze(1), (half, half), mode="reflect").squeeze(1)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return (B, F, T) log-mel energies of waveforms (B, N) in [-1, 1]."""
        mel, s = self.mel_power(waveform), self.settings
        if s.log == "natural":
            return (mel + s.floor).log()
        decibel = 10 * mel.clamp_min(s.floor).log10()
        if s.top_db is None:
            return decibel
        return torch.maximum(decibel, decibel.amax((1, 2), keepdim=True) - s.top_db)


@LAYERS.register("mfcc")
class Mfcc(nn.Module):
    """Waveforms (B, N) to mel-frequency cepstral coefficients (B, K, T): the orthonormal DCT-II of the log-mel bands.

    Args:
        settings: of the log-mel spectrogram.
        num_coefficients: K, the first ones are kept.
    """

    basis: Tensor

    def __init__(self, settings: str | SpectrogramSettings = "librosa", num_coefficients: int = 40) -> None:
        super().__init__()
        self.log_mel = LogMel(settings)
        bands = self.log_mel.settings.n_mels
        if not 1 <= num_coefficients <= bands:
            raise ValueError(f"num_coefficients must be in 1..{bands}, the number of mel bands; got {num_coefficients}")
        k = torch.arange(num_coefficients, dtype=torch.float64).unsqueeze(1)
        n = torch.arange(bands, dtype=torch.float64)
        basis = (math.pi / bands * (n + 0.5) * k).cos() * math.sqrt(2 / bands)  # (K, F)
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return (B, K, T)."""
        log_mel = self.log_mel(waveform)
        with full_precision(waveform):
            return self.basis @ log_mel


def delta(features: Tensor, width: int = 9) -> Tensor:
    """Return the slope over time of features (B, K, T): least squares over `width` frames, the nearest at the ends.

    Source: Savitzky, Golay. Smoothing and Differentiation of Data. Analytical Chemistry 1964.

    Raises:
        ValueError: `width` is even or below 3, or there are fewer frames.
    """
    if width < 3 or width % 2 == 0 or features.shape[-1] < width:
        raise ValueError(f"width must be odd, at least 3 and at most the {features.shape[-1]} frames; got {width}")
    half = width // 2
    steps = torch.arange(-half, half + 1, dtype=features.dtype, device=features.device)
    kernel = (steps / steps.square().sum()).view(1, 1, -1)
    slope = F.conv1d(features.flatten(0, 1).unsqueeze(1), kernel).squeeze(1).unflatten(0, features.shape[:2])
    return F.pad(slope, (half, half), mode="replicate")  # a line has one slope, also beyond its last window
