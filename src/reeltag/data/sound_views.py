"""What a recipe's `data.audio` means: which part of a sound a model hears, and when a track counts as silent."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from reeltag.data.example_order import mix
from reeltag.data.sources import Source
from reeltag.media.sound_transforms import change_speed, even_crops
from reeltag.sections import AudioSection

_PART = 1 << 22
_SOUND = 0x736F756E64  # sets the draws of sound apart, so that they are the same beside pictures and without them


def heard(source: Source, audio: AudioSection) -> Tensor | None:
    """Return the sound of a clip, float32 (N,), or None where it has no track, an empty one or a silent one.

    With `audio.trim_db` it begins and ends with a sample that is at least so loud.

    Raises:
        MediaError: the file cannot be read.
    """
    wave = source.waveform(audio.rate_hz) if source.has_audio else None
    if wave is None or level_db(wave) < audio.silence_db:
        return None
    return wave if audio.trim_db is None else trimmed(wave, audio.trim_db)


def trimmed(wave: Tensor, trim_db: float) -> Tensor:
    """Return (N,) samples without those at both ends that are quieter than `trim_db` of full scale, if any is louder.

    The published code of between-class learning cuts zeros off before it crops (arXiv:1711.10282); a lossy file has
    small values where they were.
    """
    loud = (wave.abs() >= 10 ** (trim_db / 20)).nonzero()
    return wave[int(loud[0]) : int(loud[-1]) + 1] if len(loud) else wave


def level_db(wave: Tensor) -> float:
    """Return the RMS of (N,) samples in dB of full scale; minus infinity for silence and for no sample at all."""
    # In parts: a long wave is not held a second time in double precision.
    power = sum(float(part.double().square().sum()) for part in wave.split(_PART)) / len(wave) if len(wave) else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def training_samples(audio: AudioSection) -> int:
    """Return N, the samples of every training clip: those of the longest one."""
    return round(audio.range_seconds[1] * audio.rate_hz)


def test_samples(audio: AudioSection) -> int:
    """Return N, the samples of every test crop."""
    return round(audio.seconds * audio.rate_hz)


test_samples.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest thinks of its name


def training_crop(wave: Tensor, audio: AudioSection, generator: Generator) -> Tensor:
    """Return (1, N): a part of random length and place at a random speed, padded to the longest length.

    Crops of random length: Alibaba, Multi-Moments in Time 2019 (1.5 to 2.5 s). Speed, then margins, then the crop, as
    in the published code of between-class learning (arXiv:1711.10282).

    Args:
        wave: (n,) samples, n >= 1.
        audio: the recipe's section; its gain is applied after mixing, see `reeltag.data.dataset`.
        generator: of the clip; what is drawn here depends on its first seed alone.
    """
    generator = Generator().manual_seed(mix(generator.initial_seed(), _SOUND))
    drawn = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    if audio.speed > 1:
        factor = audio.speed ** (2 * drawn[0] - 1)
        wave = change_speed(wave, factor) if int(len(wave) * factor) else wave
    wave = _with_margins(wave, audio)
    shortest, longest = audio.range_seconds
    length = max(1, round((shortest + (longest - shortest) * drawn[1]) * audio.rate_hz))
    start = int(drawn[2] * (max(0, len(wave) - length) + 1))
    return fit(wave[start : start + length], training_samples(audio), audio.padding).unsqueeze(0)


def even_test_crops(wave: Tensor, audio: AudioSection, clips: int) -> Tensor:
    """Return (clips, N) crops of `seconds` at even distances from the first sample on; a single one is the middle."""
    num_samples = test_samples(audio)
    wave = _with_margins(wave, audio)
    if len(wave) < num_samples:
        wave = fit(wave, num_samples, audio.padding)
    if clips == 1:
        start = (len(wave) - num_samples) // 2
        return wave[start : start + num_samples].unsqueeze(0)
    return even_crops(wave, num_samples, clips)


def fit(wave: Tensor, num_samples: int, padding: str) -> Tensor:
    """Return (num_samples,): a shorter wave between zeros of equal length, or played again and again (`tile`)."""
    missing = num_samples - len(wave)
    if missing <= 0:
        return wave[:num_samples]
    if padding == "tile":
        return wave.repeat(math.ceil(num_samples / len(wave)))[:num_samples]
    return torch.nn.functional.pad(wave, (missing // 2, missing - missing // 2))


def _with_margins(wave: Tensor, audio: AudioSection) -> Tensor:
    margin = round(audio.margin_seconds * audio.rate_hz)
    return torch.nn.functional.pad(wave, (margin, margin)) if margin else wave
