"""Which frames of a video an extractor sees, and how they become its input: even frames, or even clips of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.views import TestView, even_clips, resize_of, time_grid
from reeltag.media import sampling
from reeltag.media.transforms import CenterCrop, Resize
from reeltag.recipe import DataSection, TestSection

MAX_FRAMES = 4096  # of one video; more are thinned out evenly


class ExtractView(Protocol):
    """How the frames of a video are chosen, shrunk while they are decoded, and laid out for the network."""

    def choose(self, num_frames: int, fps: float) -> list[int]:
        """Return the frame numbers, clip after clip."""
        ...

    def shrink(self, frames: Tensor) -> Tensor:
        """Return fewer pixels of uint8 (T, C, H, W), frame by frame."""
        ...

    def render(self, frames: Tensor) -> Tensor:
        """Return uint8 (clips, crops, T, C, H, W) of all chosen frames, shrunk."""
        ...


@dataclass(frozen=True)
class Amount:
    """How many feature vectors a video gets: `fps` a second, or `num_frames` whatever its length.

    Attributes:
        fps: vectors a second, or None.
        num_frames: vectors a video, or None.

    Raises:
        ValueError: both are given, or neither, or one is not above 0.
    """

    fps: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if (self.fps is None) == (self.num_frames is None):
            raise ValueError("give the vectors a second (fps) or a video (num_frames), one of the two")
        if not (self.fps or self.num_frames or 0) > 0:
            raise ValueError(f"fps and num_frames must be above 0, got {self.fps or self.num_frames}")

    def of(self, num_frames: int, fps: float) -> int:
        """Return the vectors of a video, between 1 and `MAX_FRAMES`."""
        if self.num_frames is None:
            wanted = round(num_frames / fps * (self.fps or 0)) if fps else num_frames
        else:
            wanted = self.num_frames
        return min(max(1, wanted), MAX_FRAMES)


@dataclass(frozen=True)
class FramesView:
    """Single frames, evenly in time; resized to a short side and cut to the middle square.

    Attributes:
        amount: how many.
        short_side_px: after resizing.
        crop_px: of the square.
    """

    amount: Amount
    short_side_px: int
    crop_px: int

    def choose(self, num_frames: int, fps: float) -> list[int]:
        """Return the frames at k / fps seconds; or the centres of N equal parts, each frame once."""
        if self.amount.num_frames is None:
            grid = list(time_grid(num_frames, fps, min(self.amount.fps or fps, fps)))
            return [grid[index] for index in sampling.segments(len(grid), min(len(grid), MAX_FRAMES))]
        return sampling.segments(num_frames, min(self.amount.of(num_frames, fps), num_frames))

    def shrink(self, frames: Tensor) -> Tensor:
        """Return (T, C, crop_px, crop_px)."""
        return CenterCrop(self.crop_px)(Resize(self.short_side_px)(frames)[0])[0]

    def render(self, frames: Tensor) -> Tensor:
        """Return (1, 1, T, C, crop_px, crop_px)."""
        return frames[None, None]


@dataclass(frozen=True)
class ClipsView:
    """Even clips as the recipe of a trained model tests them, with its crops.

    Attributes:
        data, test: of the recipe; `test.clips` is replaced by what `amount` asks for.
        amount: how many vectors.
        per_clip: vectors that the network makes of one clip, 1 or T.
    """

    data: DataSection
    test: TestSection
    amount: Amount
    per_clip: int

    def choose(self, num_frames: int, fps: float) -> list[int]:
        """Return the frames of as many clips as the vectors need, one clip after the other."""
        clips = math.ceil(self.amount.of(num_frames, fps) / self.per_clip)
        return [index for clip in even_clips(self.data, clips, num_frames, fps) for index in clip]

    def shrink(self, frames: Tensor) -> Tensor:
        """Return the frames at the recipe's test size."""
        return resize_of(self.data, self.test.short_side_px or self.data.short_side_px)(frames)[0]

    def render(self, frames: Tensor) -> Tensor:
        """Return (clips, crops, T, C, H, W)."""
        clips = len(frames) // self.data.num_frames
        view = TestView(self.data, self.test.model_copy(update={"clips": clips}))
        views, _ = view.render(frames, torch.Generator())  # resized already, so that only the crops are left
        return views.unflatten(0, (clips, -1))


def in_time_order(features: Tensor, times_s: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.float64]]:
    """Return the vectors of interleaved clips by the time of their frames; equal times keep their order.

    Args:
        features: (clips, N, D), N = T vectors a clip or 1.
        times_s: (clips, T) of the frames.

    Returns:
        (clips * N, D) and (clips * N,); the time of a clip's one vector is the mean over its frames.
    """
    times = times_s if features.shape[1] == times_s.shape[1] else times_s.mean(1, keepdims=True)
    order = np.argsort(times.reshape(-1), kind="stable")
    return features.flatten(0, 1)[torch.from_numpy(order)], times.reshape(-1)[order]
