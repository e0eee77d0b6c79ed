"""Features of sound: which windows of a waveform a network hears, and the vectors with their times."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.feature_source import FeatureSource
from reeltag.data.sound_views import even_test_crops, heard, test_samples
from reeltag.data.sources import FileSource, Source
from reeltag.errors import MediaError
from reeltag.inference.extract_views import MAX_FRAMES, Amount
from reeltag.media import Sound, Video
from reeltag.sections import AudioSection

WINDOWS_AT_ONCE = 64


@dataclass(frozen=True)
class SoundWindows:
    """Windows of a clip's sound.

    With `amount.fps` a window of `audio.seconds` lies around each k / fps, zeros outside of the sound; with
    `amount.num_frames` there are as many even crops as a test has. Without an amount the whole sound is one window,
    for a network that makes a vector of each of its parts.

    Attributes:
        audio: the recipe's section.
        amount: how many, or None.
    """

    audio: AudioSection
    amount: Amount | None

    def read(self, source: Source) -> tuple[Tensor, NDArray[np.float64]]:
        """Return windows float32 (n, N) and when the middle of each is heard, (n,) seconds of the clip.

        Raises:
            MediaError: the file cannot be read, or there is no sound in it.
        """
        wave = heard(source, self.audio)
        if wave is None:
            raise MediaError("unsupported", source.path, "no sound track, or a silent one: no features of sound")
        return self.cut(wave)

    def cut(self, wave: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the windows of (N,) samples and their times, see `read`."""
        rate_hz, size = self.audio.rate_hz, test_samples(self.audio)
        if self.amount is None:
            return wave.unsqueeze(0), np.array([len(wave) / rate_hz / 2])
        if self.amount.fps is None:
            count = self.amount.of(1, 1.0)
            crops = even_test_crops(wave, self.audio, count)
            free = max(0, len(wave) + 2 * round(self.audio.margin_seconds * rate_hz) - size)
            starts = np.array([free // 2]) if count == 1 else np.arange(count) * (free // (count - 1))
            return crops, (starts + size / 2) / rate_hz - self.audio.margin_seconds
        count = min(MAX_FRAMES, max(1, math.ceil(len(wave) / rate_hz * self.amount.fps - 1e-6)))
        times = np.arange(count) / self.amount.fps
        padded = torch.nn.functional.pad(wave, (size // 2, size - size // 2))
        return torch.stack([padded[at : at + size] for at in (times * rate_hz).round().astype(int).tolist()]), times


@dataclass(frozen=True)
class SoundExtractor:
    """A network that turns a clip's sound into feature vectors with their times; see `Extractor`.

    Attributes:
        encode: from waveforms (n, N) to (n, k, D).
        view: which windows it hears.
        source: name, settings and digests, as a store keeps them.
        device: where `encode` runs.
        autocast: makes the context in which it runs.
        part_s: seconds of one of the k vectors of a window, where there is more than one.
    """

    modality: ClassVar[str] = "audio"
    encode: Callable[[Tensor], Tensor]
    view: SoundWindows
    source: FeatureSource
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    part_s: float = 0.0

    def features(self, windows: Tensor, times_s: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.float64]]:
        """Return float32 (N, D) on the CPU and the (N,) times, of the windows that `view` cut."""
        with torch.inference_mode(), self.autocast():
            parts = windows.split(WINDOWS_AT_ONCE)
            found = torch.cat([self.encode(part.to(self.device)).float().cpu() for part in parts])  # (n, k, D)
        count = found.shape[1]
        if self.part_s and count:
            seconds = windows.shape[1] / self.view.audio.rate_hz
            times_s = (times_s[:, None] - seconds / 2 + (np.arange(count) + 0.5) * self.part_s).reshape(-1)
        return found.flatten(0, 1), times_s

    def of_video(self, media: Video | Sound, name: str = "") -> tuple[Tensor, NDArray[np.float64]]:
        """Return float32 (N, D) and the (N,) times of an open file.

        Raises:
            MediaError: it has no sound.
        """
        return self.features(*self.view.read(FileSource(name, media)))
