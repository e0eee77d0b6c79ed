"""What a recipe's `data` and `test` sections mean: which frames of a video, and how they are cropped and varied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reeltag.media import sampling
from reeltag.media.transforms import (
    CenterCrop,
    ChannelPermutation,
    Compose,
    GainOffset,
    HorizontalFlip,
    MultiScaleCornerCrop,
    RandomCrop,
    RandomResizedCrop,
    RandomShortSideCrop,
    Resize,
    ResizeTo,
    ThreeCrops,
    TimeReverse,
    Transform,
    VerticalFlip,
)
from reeltag.recipe import DataSection, TestSection


class TrainingView:
    """One random clip a video, by the recipe's `data` section."""

    num_views = 1
    names = ("train",)

    def __init__(self, data: DataSection) -> None:
        self.data = data
        self.transform = Compose(tuple(training_transforms(data)))
        self._stages: dict[int, TrainingView] = {}

    def at_epoch(self, epoch: int) -> TrainingView:
        """Return the view of the recipe's stage that `epoch` lies in."""
        if not self.data.stages:
            return self
        if epoch not in self._stages:
            self._stages[epoch] = TrainingView(self.data.at_epoch(epoch))
        return self._stages[epoch]

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
        """Return the frame numbers of one clip."""
        return choose_frames(self.data, num_frames, fps, generator)

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (1, T, C, crop, crop) and the flips that were applied."""
        clip, applied = self.transform(frames, generator)
        return clip.unsqueeze(0), set(applied)


class TestView:
    """Even clips and even crops of a video, by the recipe's `test` section; nothing is random."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, data: DataSection, test: TestSection) -> None:
        self.data, self.test = data, test
        self.num_views = test.clips * test.crops
        self.names = tuple(f"clip{clip}_crop{crop}" for clip in range(test.clips) for crop in range(test.crops))
        short_side_px = test.short_side_px or data.short_side_px
        self.resize = resize_of(data, short_side_px)
        size = test.crop_px or (data.crop_px if data.crop != "none" else short_side_px)
        self.crops = CenterCrop(size) if test.crops == 1 else ThreeCrops(size)

    def at_epoch(self, epoch: int) -> TestView:
        """Return this view: a test is the same at every epoch."""
        return self

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
        """Return the frame numbers of all clips, one clip after the other."""
        clips = even_clips(self.data, self.test.clips, num_frames, fps)
        return [index for clip in clips for index in clip]

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (clips * crops, T, C, H, W)."""
        resized, _ = self.resize(frames)
        if isinstance(self.crops, ThreeCrops):
            views = torch.stack(self.crops(resized))  # (3, clips * T, C, H, W)
        else:
            views = self.crops(resized)[0].unsqueeze(0)  # (1, clips * T, C, H, W)
        split = views.unflatten(1, (self.test.clips, -1)).transpose(0, 1)  # (clips, crops, T, C, H, W)
        return split.flatten(0, 1), set()


def resize_of(data: DataSection, short_side_px: int) -> Resize | ResizeTo:
    """Return the resize to a short side, or to a square of it where the recipe does not keep the aspect ratio."""
    return Resize(short_side_px) if data.keep_aspect else ResizeTo(short_side_px, short_side_px)


def training_transforms(data: DataSection) -> list[Transform]:
    """Return the transforms of a training clip in their order: crop and resize, flips, colour."""
    resize = resize_of(data, data.short_side_px)
    crops: dict[str, list[Transform]] = {
        "none": [resize],
        "center": [resize, CenterCrop(data.crop_px)],
        "random": [resize, RandomCrop(data.crop_px)],
        "resized": [RandomResizedCrop(data.crop_px, scale=data.crop_scale)],
        "multi_scale_corners": [resize, MultiScaleCornerCrop(data.crop_px)],
        "random_short_side": [
            RandomShortSideCrop(data.short_side_px, data.short_side_max_px or data.short_side_px, data.crop_px)
        ],
    }
    if data.crop == "random_short_side" and not data.keep_aspect:
        crops["random_short_side"].insert(0, resize_of(data, data.short_side_max_px or data.short_side_px))
    steps = crops[data.crop]
    if data.flip:
        steps.append(HorizontalFlip())
    if data.flip_vertical:
        steps.append(VerticalFlip())
    if data.flip_time:
        steps.append(TimeReverse())
    if data.channel_permutation:
        steps.append(ChannelPermutation(data.channel_permutation))
    if data.gain:
        steps.append(GainOffset((1 - data.gain, 1 + data.gain), (-127.5 * data.gain, 127.5 * data.gain)))
    return steps


def choose_frames(data: DataSection, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
    """Return the frames of one training clip by `data.sampling`, on the time grid of `data.fps` when it is given."""
    grid = time_grid(num_frames, fps, data.fps)
    if data.sampling == "segments":
        chosen = sampling.segments(len(grid), data.num_frames, generator=generator)
    elif data.sampling == "dense":
        chosen = sampling.random_clip(len(grid), data.num_frames, data.stride, generator=generator)
    else:
        chosen = sampling.uniform_depth(len(grid), min_depth=data.num_frames, max_depth=data.num_frames)
    return [grid[index] for index in chosen]


def even_clips(data: DataSection, clips: int, num_frames: int, fps: float) -> list[list[int]]:
    """Return the frames of `clips` test clips, evenly spaced in time."""
    grid = time_grid(num_frames, fps, data.fps)
    if data.sampling == "segments":
        chosen = segment_clips(len(grid), data.num_frames, clips)
    elif data.sampling == "dense":
        chosen = sampling.even_clips(len(grid), data.num_frames, data.stride, clips)
    else:
        chosen = [sampling.uniform_depth(len(grid), min_depth=data.num_frames, max_depth=data.num_frames)] * clips
    return [[grid[index] for index in clip] for clip in chosen]


def segment_clips(num_in_video: int, num_frames: int, num_clips: int) -> list[list[int]]:
    """Return K test clips with one frame of each segment: clip c takes the frame at (c + 1/2) / K of every segment.

    One clip takes the centres, int(tick / 2 + tick k), as TSN's published code does.
    """
    tick = num_in_video / num_frames
    places = [(clip + 0.5) / num_clips for clip in range(num_clips)]
    return [[min(num_in_video - 1, int(tick * (k + place))) for k in range(num_frames)] for place in places]


def time_grid(num_frames: int, fps: float, wanted_fps: float | None) -> Sequence[int]:
    """Return the frame numbers at `wanted_fps` frames a second; every frame when that or the rate is unknown."""
    if not wanted_fps or not fps or wanted_fps == fps:
        return range(num_frames)
    count = max(1, round(num_frames * wanted_fps / fps))
    return [min(num_frames - 1, int(index * fps / wanted_fps)) for index in range(count)]
