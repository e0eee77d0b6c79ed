"""What a recipe's `data` and `test` sections mean: which frames of a clip, and how they are cropped and varied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from reeltag.data.looking import Seen, as_image, look, picture_filler
from reeltag.data.sound_views import even_test_crops, heard, test_samples, training_crop, training_samples
from reeltag.data.sources import Source
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
from reeltag.schema import Modality


class TrainingView:
    """One random clip a video, by the recipe's `data` section.

    Args:
        data: the section.
        modalities: what is looked at, in the order of `schema.MODALITIES`.
    """

    num_views = 1
    names = ("train",)
    without: frozenset[str] = frozenset()

    def __init__(self, data: DataSection, modalities: Sequence[Modality] = ("rgb",)) -> None:
        self.data, self.modalities = data, tuple(modalities)
        self.gain_db = data.audio.gain_db
        self.span = data.flow.stack if "flow" in self.modalities else 1
        self.transform = Compose(tuple(training_transforms(data)))
        self.flow_transform = Compose(tuple(training_transforms(data, colour=False)))
        self._stages: dict[int, TrainingView] = {}

    def at_epoch(self, epoch: int) -> TrainingView:
        """Return the view of the recipe's stage that `epoch` lies in."""
        if not self.data.stages:
            return self
        if epoch not in self._stages:
            self._stages[epoch] = TrainingView(self.data.at_epoch(epoch), self.modalities)
        return self._stages[epoch]

    def look(self, source: Source, generator: torch.Generator) -> Seen:
        """Return one random clip of an open source; see `reeltag.data.looking`."""
        return look(self, source, generator)

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
        """Return the frame numbers of one clip."""
        return choose_frames(self.data, num_frames, fps, generator, span=self.span)

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (1, T, C, crop, crop) and the flips that were applied."""
        clip, applied = self.transform(frames, generator)
        return clip.unsqueeze(0), set(applied)

    def render_flow(self, flow: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (1, T, C, crop, crop) of uint8 (T, 2 * stack, H, W), and the flips that were applied.

        A horizontal flip changes the sign of x, a vertical one that of y, time reversal both and the order.
        """
        length = len(flow)
        clip, applied = self.flow_transform(flow.unflatten(1, (-1, 2)).flatten(0, 1), generator)  # (T * stack, 2, H, W)
        return _flow_clip(clip, length, self.data).unsqueeze(0), set(applied)

    def listen(self, source: Source, generator: torch.Generator) -> Tensor | None:
        """Return float32 (1, N): a random crop, or None where nothing is to be heard."""
        wave = heard(source, self.data.audio)
        return None if wave is None else training_crop(wave, self.data.audio, generator)

    def filler(self, modality: Modality) -> Tensor:
        """Return what stands for a modality that the clip has not."""
        if modality == "audio":
            return torch.zeros(1, training_samples(self.data.audio))
        side = self.data.short_side_px if self.data.crop == "none" else self.data.crop_px
        return picture_filler((1, self.data.num_frames, side, side), modality, self.data)


class TestView:
    """Even clips and even crops of a video, by the recipe's `test` section; nothing is random.

    Args:
        data: the recipe's section.
        test: the recipe's section.
        modalities: what is looked at, in the order of `schema.MODALITIES`.
        without: modalities that count as missing in every clip.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name
    gain_db = 0.0

    def __init__(
        self,
        data: DataSection,
        test: TestSection,
        modalities: Sequence[Modality] = ("rgb",),
        without: Iterable[str] = (),
    ) -> None:
        self.data, self.test = data, test
        self.modalities, self.without = tuple(modalities), frozenset(without)
        self.span = data.flow.stack if "flow" in self.modalities else 1
        self.num_views = test.clips * test.crops
        self.names = tuple(f"clip{clip}_crop{crop}" for clip in range(test.clips) for crop in range(test.crops))
        short_side_px = test.short_side_px or data.short_side_px
        self.resize = resize_of(data, short_side_px)
        self.size_px = test.crop_px or (data.crop_px if data.crop != "none" else short_side_px)
        self.crops = CenterCrop(self.size_px) if test.crops == 1 else ThreeCrops(self.size_px)

    def at_epoch(self, epoch: int) -> TestView:
        """Return this view: a test is the same at every epoch."""
        return self

    def look(self, source: Source, generator: torch.Generator) -> Seen:
        """Return all views of an open source; see `reeltag.data.looking`."""
        return look(self, source, generator)

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> list[int]:
        """Return the frame numbers of all clips, one clip after the other."""
        clips = even_clips(self.data, self.test.clips, num_frames, fps, span=self.span)
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

    def render_flow(self, flow: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (clips * crops, T, C, H, W) of uint8 (clips * T, 2 * stack, H, W)."""
        views, _ = self.render(flow, generator)
        return (as_image(views) if self.data.flow.form == "image" else views), set()

    def listen(self, source: Source, generator: torch.Generator) -> Tensor | None:
        """Return float32 (clips * crops, N), or None; the crops of one picture hear the same."""
        wave = heard(source, self.data.audio)
        if wave is None:
            return None
        return even_test_crops(wave, self.data.audio, self.test.clips).repeat_interleave(self.test.crops, 0)

    def filler(self, modality: Modality) -> Tensor:
        """Return what stands for a modality that the clip has not."""
        if modality == "audio":
            return torch.zeros(self.num_views, test_samples(self.data.audio))
        return picture_filler((self.num_views, self.data.num_frames, self.size_px, self.size_px), modality, self.data)


def _flow_clip(pairs: Tensor, num_frames: int, data: DataSection) -> Tensor:
    """Return (T, C, H, W) of (T * stack, 2, H, W)."""
    clip = pairs.unflatten(0, (num_frames, -1)).flatten(1, 2)
    return as_image(clip) if data.flow.form == "image" else clip


def resize_of(data: DataSection, short_side_px: int) -> Resize | ResizeTo:
    """Return the resize to a short side, or to a square of it where the recipe does not keep the aspect ratio."""
    return Resize(short_side_px) if data.keep_aspect else ResizeTo(short_side_px, short_side_px)


def training_transforms(data: DataSection, *, colour: bool = True) -> list[Transform]:
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
    if not colour:
        return steps
    if data.channel_permutation:
        steps.append(ChannelPermutation(data.channel_permutation))
    if data.gain:
        steps.append(GainOffset((1 - data.gain, 1 + data.gain), (-127.5 * data.gain, 127.5 * data.gain)))
    return steps


def choose_frames(
    data: DataSection, num_frames: int, fps: float, generator: torch.Generator, *, span: int = 1
) -> list[int]:
    """Return the frames of one training clip by `data.sampling`, on the time grid of `data.fps` when it is given.

    With `segments`, the last frame leaves room for the `span` fields of stacked flow.
    """
    grid = time_grid(num_frames, fps, data.fps)
    if data.sampling == "segments":
        chosen = sampling.segments(len(grid), data.num_frames, span=span, generator=generator)
    elif data.sampling == "dense":
        chosen = sampling.random_clip(len(grid), data.num_frames, data.stride, generator=generator)
    else:
        chosen = sampling.uniform_depth(len(grid), min_depth=data.num_frames, max_depth=data.num_frames)
    return [grid[index] for index in chosen]


def even_clips(data: DataSection, clips: int, num_frames: int, fps: float, *, span: int = 1) -> list[list[int]]:
    """Return the frames of `clips` test clips, evenly spaced in time; `span` as in `choose_frames`."""
    grid = time_grid(num_frames, fps, data.fps)
    if data.sampling == "segments":
        chosen = segment_clips(max(1, len(grid) - span + 1), data.num_frames, clips)
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
