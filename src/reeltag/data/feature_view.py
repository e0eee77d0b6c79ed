"""What a recipe's `data` and `test` sections mean for stored features: which vectors of a video a model is given."""

from __future__ import annotations

import torch
from torch import Tensor

from reeltag.data.views import choose_frames, even_clips
from reeltag.errors import RecipeError
from reeltag.recipe import DataSection, TestSection


class FeatureTrainingView:
    """Up to `data.num_frames` vectors of a video: all of a short one, else drawn as `data.sampling` says.

    `data.flip_time` plays half of the clips backwards. Keys about pixels have no meaning here: those that a person
    would miss are refused, crops and sizes are passed over.
    """

    num_views = 1
    names = ("train",)
    gain_db = 0.0

    def __init__(self, data: DataSection) -> None:
        refuse_pixel_keys(data)
        self.data = data

    def at_epoch(self, epoch: int) -> FeatureTrainingView:
        """Return this view: features have no stages."""
        return self

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
        """Return the numbers of the vectors of one clip, at most `data.num_frames`."""
        if num_frames <= self.data.num_frames and self.data.fps is None:
            return list(range(num_frames))
        return choose_frames(self.data, num_frames, fps, generator)

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return (1, T, D), and `time` if the clip was turned round."""
        if self.data.flip_time and bool(torch.rand((), generator=generator) < 0.5):
            return frames.flip(0).unsqueeze(0), {"time"}
        return frames.unsqueeze(0), set()


class FeatureTestView:
    """All vectors of a video that has at most `data.num_frames`, else `test.clips` even clips; nothing is random."""

    gain_db = 0.0

    def __init__(self, data: DataSection, test: TestSection) -> None:
        refuse_pixel_keys(data)
        if test.crops != 1:
            raise RecipeError(f"test.crops={test.crops}: stored features have no crops; set test.crops=1")
        self.data, self.test = data, test
        self.num_views = test.clips
        self.names = tuple(f"clip{clip}" for clip in range(test.clips))

    def at_epoch(self, epoch: int) -> FeatureTestView:
        """Return this view: a test is the same at every epoch."""
        return self

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
        """Return the numbers of the vectors of all clips, one clip after the other."""
        if num_frames <= self.data.num_frames and self.data.fps is None:
            return list(range(num_frames)) * self.test.clips
        return [index for clip in even_clips(self.data, self.test.clips, num_frames, fps) for index in clip]

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return (clips, T, D)."""
        return frames.unflatten(0, (self.test.clips, -1)), set()


def refuse_pixel_keys(data: DataSection) -> None:
    """Raise RecipeError for augmentations that need pixels."""
    for key in ("flip", "flip_vertical", "channel_permutation", "gain", "stages"):
        if getattr(data, key):
            raise RecipeError(f"data.{key} needs pixels, and this manifest holds features; leave it out")
