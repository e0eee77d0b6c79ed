"""Windows over a long file: where they lie, which frames are in each, and what stands for the file inside of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.errors import MediaError, ReeltagError
from reeltag.media import Sound, Video

DEFAULT_WINDOW_S = 3.0
MAX_WINDOWS = 1_000_000
_SAME_RATE = 0.01  # a window whose rate is this near to the file's has the file's
_SAME_S = 1e-6  # edges of windows that are nearer are one
_LEAST_REST_S = 1e-3  # of the file behind the last window, for which there is one window more


@dataclass(frozen=True)
class Windows:
    """Windows of one length over a file, each `hop_s` after the one before; the last one ends with the file.

    Attributes:
        window_s: seconds of a window.
        hop_s: seconds from one start to the next.
        times_s: (W, 2) start and end of each, half-open, on the clock of the file (0 is the first frame).
    """

    window_s: float
    hop_s: float
    times_s: NDArray[np.float64]

    @classmethod
    def over(cls, duration_s: float, window_s: float, hop_s: float | None = None) -> Windows:
        """Lay windows over a file; one that is shorter than a window has a single one, all of it.

        Args:
            duration_s: of the file.
            window_s: see above; above 0.
            hop_s: see above; in (0, window_s], half a window by default.

        Raises:
            ReeltagError: a length that is not allowed, or more windows than `MAX_WINDOWS`.
        """
        hop_s = check_windows(window_s, hop_s)
        count = math.floor(max(0.0, duration_s - window_s) / hop_s + 1e-9) + 1
        if count > MAX_WINDOWS:
            raise ReeltagError(f"{count} windows of a file are too many; give a longer --hop-s than {hop_s:g}")
        starts = np.arange(count) * hop_s
        if duration_s - window_s - starts[-1] > _LEAST_REST_S:
            starts = np.append(starts, duration_s - window_s)
        ends = np.minimum(starts + window_s, max(duration_s, 0.0))
        ends[-1] = duration_s
        return cls(window_s, hop_s, np.stack([starts, ends], 1))

    def moments(self, scores: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the stretches between the edges of windows, and for each the mean score of the windows that cover it.

        Args:
            scores: (W, L); NaN counts as no score.

        Returns:
            (P, 2) start and end of each stretch, which together are the file; (P, L), NaN where no window has a score.
        """
        edges = np.unique(self.times_s.round(9))
        edges = edges[np.concatenate([np.diff(edges) > _SAME_S, [True]])]
        first = np.searchsorted(self.times_s[:, 1], edges[:-1] + _SAME_S, side="right")
        last = np.searchsorted(self.times_s[:, 0], edges[1:] - _SAME_S, side="left")
        known = ~np.isnan(scores)
        blank = np.zeros((1, scores.shape[1]))
        sums = np.concatenate([blank, np.where(known, scores, 0).cumsum(0, dtype=np.float64)])
        count = np.concatenate([blank, known.cumsum(0)])
        covering = count[last] - count[first]
        means = (sums[last] - sums[first]) / np.where(covering > 0, covering, np.nan)
        return np.stack([edges[:-1], edges[1:]], 1), means


def check_windows(window_s: float, hop_s: float | None) -> float:
    """Return the hop; ReeltagError for a window or a hop that is not allowed."""
    if not 0 < window_s < math.inf:
        raise ReeltagError(f"--window-s {window_s:g} is no length of a window; give seconds above 0")
    hop_s = window_s / 2 if hop_s is None else hop_s
    if not 0 < hop_s <= window_s:
        raise ReeltagError(
            f"--hop-s {hop_s:g} must be above 0 and at most the window, {window_s:g} s: with a longer hop "
            "nothing would look at what lies between two windows"
        )
    return hop_s


def frames_within(times_s: NDArray[np.float64], start_s: float, end_s: float) -> tuple[int, int]:
    """Return the first frame shown in [start_s, end_s) and the one behind the last.

    Where no frame begins in it, as at a low or variable rate, the one that is on the screen at its start.

    Args:
        times_s: (N,) when each frame is shown, ascending, N >= 1.
        start_s: of the window.
        end_s: of the window, behind its start.
    """
    tick_s = 1e-6  # a time computed as index / fps finds its frame in spite of rounding
    first, last = np.searchsorted(times_s, [start_s - tick_s, end_s - tick_s], side="left").tolist()
    return (first, last) if first < last else (max(0, first - 1), max(1, first))


class Stretch:
    """A part of an open file that reads like an open file: its frames and sound are those that were kept.

    Args:
        media: the open file.
        start_s: of the part.
        end_s: of the part; the end of the file takes all frames to the last one.
        waves: the whole sound by rate, where it was read; None of them where the track cannot be.

    Attributes:
        frames: kept frames by their number in the file, uint8 (3, H, W); whoever reads the file fills it.
        first: number in the file of the first frame.
        num_frames: 0 where the file has no pictures.
        times_s: (num_frames,) when each is shown, from the start of the part.
        fps: of the part, where its rate differs from that of the file.
    """

    def __init__(self, media: Video | Sound, start_s: float, end_s: float, waves: Mapping[int, Tensor | None]) -> None:
        self._media, self._waves = media, waves
        self.start_s, self.end_s = start_s, end_s
        self.frames: Mapping[int, Tensor] = {}
        self.first, self.num_frames, self.fps = 0, 0, 0.0
        self.times_s: NDArray[np.float64] = np.zeros(0)
        if isinstance(media, Video):
            self.first, last = frames_within(media.times_s, start_s, end_s)
            self.num_frames = last - self.first
            self.times_s = np.maximum(media.times_s[self.first : last] - start_s, 0)
            whole = self.num_frames == media.num_frames
            self.fps = media.fps if whole else self._rate(media.fps)

    def _rate(self, whole_fps: float) -> float:
        span_s = float(self.times_s[-1] - self.times_s[0])
        own = (self.num_frames - 1) / span_s if span_s > 0 else whole_fps
        return whole_fps if abs(own / whole_fps - 1) < _SAME_RATE else own

    @property
    def duration_s(self) -> float:
        """Seconds of the part."""
        return self.end_s - self.start_s

    @property
    def damaged(self) -> bool:
        """The file is."""
        return self._media.damaged

    @property
    def has_audio(self) -> bool:
        """The file has a sound track."""
        return self._media.has_audio

    @property
    def width(self) -> int:
        """Pixels of a kept frame."""
        return int(next(iter(self.frames.values())).shape[2])

    @property
    def height(self) -> int:
        """Likewise."""
        return int(next(iter(self.frames.values())).shape[1])

    def numbers(self, indices: Sequence[int]) -> list[int]:
        """Return the numbers in the file of frames of the part."""
        return [self.first + index for index in indices]

    def frames_at(self, indices: Sequence[int]) -> Tensor:
        """Return kept frames, uint8 (T, 3, H, W) in channels_last memory.

        Raises:
            MediaError: one could not be decoded (corrupt).
        """
        found = [self.frames.get(number) for number in self.numbers(indices)]
        if any(frame is None for frame in found):
            raise MediaError("corrupt", "", f"a frame between {self.start_s:.3f} and {self.end_s:.3f} s is damaged")
        pictures = [frame.permute(1, 2, 0) for frame in found if frame is not None]
        return torch.stack(pictures).permute(0, 3, 1, 2)  # (T, 3, H, W)

    def audio(self, rate_hz: int = 16000) -> Tensor:
        """Return the sound of the part, float32 (N,) in [-1, 1].

        Raises:
            MediaError: the track cannot be read.
        """
        wave = self._waves.get(rate_hz)
        if wave is None:
            raise MediaError("corrupt", "", "the sound track cannot be read")
        return wave[round(self.start_s * rate_hz) : round(self.end_s * rate_hz)]

    def close(self) -> None:
        """Leave the file open: it is closed by who opened it."""
