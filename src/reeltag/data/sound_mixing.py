"""Two sounds mixed as they are heard: between-class learning with the ratio corrected by sound pressure."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

FLOOR_DB = -80.0
_CORNERS_HZ = (20.6, 107.7, 737.9, 12194.0)
_FFT_S = 0.1  # frames are the power of two nearest to this: 2048 samples at 16 kHz, 4096 at 44.1 kHz


def a_weighting_db(frequencies_hz: Tensor) -> Tensor:
    """Return the A-weighting of frequencies in dB, at least -80: how much louder than at 1 kHz the ear hears them.

    Source: IEC 61672-1, with its corner frequencies rounded as in the published code of between-class learning.
    """
    squared = frequencies_hz.double().square()
    low, middle, high, top = (corner**2 for corner in _CORNERS_HZ)
    numerator = math.log10(top) + 2 * squared.log10()
    denominator = (
        (squared + low).log10()
        + (squared + top).log10()
        + 0.5 * ((squared + middle).log10() + (squared + high).log10())
    )
    return (2.0 + 20 * (numerator - denominator)).clamp(min=FLOOR_DB)


def sound_pressure_db(wave: Tensor, rate_hz: int) -> float:
    """Return how loud a sound is at its loudest moment: the largest A-weighted power of a frame, in dB, at least -80.

    Power spectra of Hann windows that overlap by half, without padding, in the precision of the wave. Paper: Tokozume,
    Ushiku, Harada, arXiv:1711.10282, section 3.2 and appendix; the published code knows 16 and 44.1 kHz alone, other
    rates take the power of two that is nearest in time.

    Args:
        wave: (N,) samples; fewer than one frame are padded with zeros.
        rate_hz: samples a second.

    Raises:
        ValueError: the wave is not (N,) or has no sample.
    """
    if wave.ndim != 1 or not wave.numel():
        raise ValueError(f"a sound is (N,) with at least one sample, got {tuple(wave.shape)}")
    size = 1 << round(math.log2(rate_hz * _FFT_S))
    samples = wave.detach()
    if len(samples) < size:
        samples = torch.nn.functional.pad(samples, (0, size - len(samples)))
    window, weights = _window_and_weights(size, rate_hz, samples.dtype)
    frames = samples.unfold(0, size, size // 2) * window  # (frames, size)
    spectrum = torch.fft.rfft(frames)
    power = spectrum.real.square() + spectrum.imag.square()  # much faster than abs() on a CPU
    loudest = float((power @ weights).max())
    return 10 * math.log10(max(loudest, 10 ** (FLOOR_DB / 10)))


@lru_cache(maxsize=8)
def _window_and_weights(size: int, rate_hz: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    frequencies = torch.linspace(0, rate_hz / 2, size // 2 + 1, dtype=torch.float64)
    weights = 10 ** (a_weighting_db(frequencies) / 10)
    return torch.hann_window(size, periodic=True, dtype=torch.float64).to(dtype), weights.to(dtype)


def pressure_share(first_db: float, second_db: float, ratio: float) -> float:
    """Return the first wave's share at which it is heard with ratio r: 1 / (1 + 10^((G1 - G2) / 20) (1 - r) / r)."""
    if ratio <= 0:
        return 0.0
    return 1 / (1 + 10 ** ((first_db - second_db) / 20) * (1 - ratio) / ratio)


def mix_sounds(first: Tensor, second: Tensor, ratio: float, rate_hz: int) -> Tensor:
    """Return the mixture in which the first sound is heard with a given ratio; its targets are mixed by that ratio.

    (t x1 + (1 - t) x2) / sqrt(t^2 + (1 - t)^2), t from the pressures of both: energy, not amplitude, is what adds up.
    Paper: as `sound_pressure_db`, equations 1 and 2.

    Args:
        first: (N,) samples.
        second: (N,) samples, cut or padded to the same length before.
        ratio: in [0, 1].
        rate_hz: samples a second.

    Raises:
        ValueError: the lengths differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"two sounds are mixed at one length, got {tuple(first.shape)} and {tuple(second.shape)}")
    share = pressure_share(sound_pressure_db(first, rate_hz), sound_pressure_db(second, rate_hz), ratio)
    return (first * share + second * (1 - share)) / math.hypot(share, 1 - share)
