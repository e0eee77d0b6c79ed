"""The sound of a MiniMoments clip: six kinds over a faint hiss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
DURATION_S = 3.0

Array = NDArray[np.float64]


def synthesise(sound: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the track of a clip: (48000,) mono at 16 kHz, peak below 0.8.

    Args:
        sound: a sound label, or `background` for the hiss alone.
        rng: draws pitches, times and loudness.

    Raises:
        ValueError: no such sound.
    """
    num_samples = int(RATE_HZ * DURATION_S)
    track = rng.normal(0, rng.uniform(0.002, 0.006), num_samples)
    loudness = rng.uniform(0.2, 0.55)
    begin = int(rng.uniform(0, 0.3) * RATE_HZ)
    end = num_samples - int(rng.uniform(0, 0.3) * RATE_HZ)
    t = np.arange(end - begin) / RATE_HZ
    match sound:
        case "background":
            return track.astype(np.float32)
        case "sound_tone":
            signal = _note(np.full(t.shape, _pitch(250, 1200, rng)), rng)
        case "sound_rising" | "sound_falling":
            sweep = _pitch(200, 400, rng) * rng.uniform(6, 10) ** np.linspace(0, 1, len(t))
            signal = _note(sweep if sound == "sound_rising" else sweep[::-1], rng)
        case "sound_bursts":
            signal = rng.uniform(-1, 1, len(t)) * _pulses(t, rng.uniform(2.2, 3.6), 0.45, rng)
        case "sound_clicks":
            signal = rng.uniform(-1, 1, len(t)) * _pulses(t, rng.uniform(5, 8), 0.03, rng)
        case "sound_chord":
            root, third = _pitch(200, 420, rng), float(rng.choice([6 / 5, 5 / 4]))
            signal = sum((_note(np.full(t.shape, root * k), rng) for k in (1, third, 1.5, 2)), np.zeros_like(t)) / 3
        case _:
            raise ValueError(f"no sound is called {sound!r}")
    ramp = np.minimum(np.minimum(t, t[::-1]) / 0.02, 1)  # 20 ms against clicks at both ends
    track[begin:end] += loudness * signal * ramp
    return track.clip(-0.8, 0.8).astype(np.float32)


def _pitch(low_hz: float, high_hz: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low_hz), np.log(high_hz))))


def _note(frequency_hz: Array, rng: np.random.Generator) -> Array:
    """Return a note with two weak overtones; the frequency may change from sample to sample."""
    phase = 2 * np.pi * np.cumsum(frequency_hz) / RATE_HZ + rng.uniform(0, 2 * np.pi)
    return np.asarray(np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.1 * np.sin(3 * phase)) / 1.2


def _pulses(t: Array, per_second: float, duty: float, rng: np.random.Generator) -> Array:
    """Return an envelope of pulses that are `duty` of a period long."""
    return ((t * per_second + rng.random()) % 1 < duty).astype(np.float64)
