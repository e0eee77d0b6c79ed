"""Spatial, temporal and colour transforms of uint8 clips; what is random is drawn once per clip, from a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

# The uint8 resize of torch is fastest on channels_last memory, which is what `Video.frames_at` returns: crop first (a
# view), then resize the crop.


class Transform(Protocol):
    """A clip (T, C, H, W) and a generator in, a clip out, and the names of the flips that were done."""

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return the new clip and the names among `horizontal`, `vertical`, `time` that were applied."""
        ...


_NOTHING: frozenset[str] = frozenset()


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _below(high: int, generator: Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def _check_clip(clip: Tensor) -> tuple[int, int]:
    if clip.ndim != 4 or 0 in clip.shape:
        raise ValueError(f"a clip is (T, C, H, W) with no empty side, got {tuple(clip.shape)}")
    return clip.shape[2], clip.shape[3]


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Return (T, C, height, width), bilinear with antialias, in the clip's dtype; the same clip if it fits."""
    if clip.shape[2:] == (height, width):
        return clip
    return torch.nn.functional.interpolate(clip, (height, width), mode="bilinear", antialias=True)


def crop(clip: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return the view (T, C, height, width) whose upper left pixel is (top, left)."""
    return clip[:, :, top : top + height, left : left + width]


def _need_room(clip: Tensor, size_px: int, what: str) -> None:
    height, width = _check_clip(clip)
    if min(height, width) < size_px:
        raise ValueError(f"{what} of {size_px} px does not fit into {width} x {height}; put a Resize before it")


@dataclass(frozen=True)
class Compose:
    """Do transforms one after the other.

    Attributes:
        transforms: in order.
    """

    transforms: Sequence[Transform]

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return the clip and all flips done; the same flip done twice cancels out."""
        applied = _NOTHING
        for transform in self.transforms:
            clip, done = transform(clip, generator)
            applied ^= done
        return clip, applied


@dataclass(frozen=True)
class Resize:
    """Scale so that the short side has a given length and the shape is kept.

    Attributes:
        short_side_px: length of the short side; the long side is rounded down.
    """

    short_side_px: int

    def __call__(self, clip: Tensor, generator: Generator | None = None) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, H', W') with min(H', W') = short_side_px."""
        height, width = _check_clip(clip)
        short = min(height, width)
        new = (height * self.short_side_px // short, width * self.short_side_px // short)
        return resize(clip, *new), _NOTHING


@dataclass(frozen=True)
class ResizeTo:
    """Scale to a given size, whatever the shape was.

    Attributes:
        height_px: of the result.
        width_px: of the result.
    """

    height_px: int
    width_px: int

    def __call__(self, clip: Tensor, generator: Generator | None = None) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, height_px, width_px)."""
        _check_clip(clip)
        return resize(clip, self.height_px, self.width_px), _NOTHING


@dataclass(frozen=True)
class CenterCrop:
    """Cut the middle square out.

    Attributes:
        crop_px: its side; odd rests leave the larger part right and below.
    """

    crop_px: int

    def __call__(self, clip: Tensor, generator: Generator | None = None) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, crop_px, crop_px). ValueError where it does not fit."""
        _need_room(clip, self.crop_px, "a crop")
        top, left = (clip.shape[2] - self.crop_px) // 2, (clip.shape[3] - self.crop_px) // 2
        return crop(clip, top, left, self.crop_px, self.crop_px), _NOTHING


@dataclass(frozen=True)
class RandomCrop:
    """Cut one square out at a random place, the same for all frames.

    Attributes:
        crop_px: its side.
    """

    crop_px: int

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, crop_px, crop_px). ValueError where it does not fit."""
        _need_room(clip, self.crop_px, "a crop")
        top = _below(clip.shape[2] - self.crop_px + 1, generator)
        left = _below(clip.shape[3] - self.crop_px + 1, generator)
        return crop(clip, top, left, self.crop_px, self.crop_px), _NOTHING


@dataclass(frozen=True)
class ThreeCrops:
    """Cut three squares along the long side for testing: first, middle, last.

    Attributes:
        crop_px: their side, at most the short side; across the short side they are centred.
    """

    crop_px: int

    def __call__(self, clip: Tensor) -> list[Tensor]:
        """Return three (T, C, crop_px, crop_px): left, centre, right (wide) or top, centre, bottom (tall)."""
        _need_room(clip, self.crop_px, "a crop")
        free_y, free_x = clip.shape[2] - self.crop_px, clip.shape[3] - self.crop_px
        if free_x >= free_y:
            places = [(free_y // 2, left) for left in (0, free_x // 2, free_x)]
        else:
            places = [(top, free_x // 2) for top in (0, free_y // 2, free_y)]
        return [crop(clip, top, left, self.crop_px, self.crop_px) for top, left in places]


@dataclass(frozen=True)
class MultiScaleCornerCrop:
    """Cut a rectangle of one of several sizes out of a corner or the centre, then scale it to a square.

    Paper: Wang et al. Towards Good Practices for Very Deep Two-Stream ConvNets. 2015, arXiv:1507.02159, section 3; used
    by TSN, TSM and TIN. Sides are short side x scale; the two sides differ by at most `max_distort` steps of the list.
    As in the published code, a side within 3 px of `crop_px` is set to it.

    Attributes:
        crop_px: side of the result.
        scales: of the short side, descending.
        max_distort: how far apart the scales of the two sides may be in the list.
    """

    crop_px: int
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    max_distort: int = 1

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, crop_px, crop_px)."""
        height, width = _check_clip(clip)
        sides = [int(min(height, width) * scale) for scale in self.scales]
        sides = [max(1, self.crop_px if abs(side - self.crop_px) < 3 else side) for side in sides]
        sides = [min(side, height, width) for side in sides]
        pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= self.max_distort]
        crop_h, crop_w = pairs[_below(len(pairs), generator)]
        free_y, free_x = height - crop_h, width - crop_w
        places = [(0, 0), (0, free_x), (free_y, 0), (free_y, free_x), (free_y // 2, free_x // 2)]
        top, left = places[_below(5, generator)]
        return resize(crop(clip, top, left, crop_h, crop_w), self.crop_px, self.crop_px), _NOTHING


@dataclass(frozen=True)
class RandomShortSideCrop:
    """Scale the short side to a random length, then cut a random square.

    Paper: Simonyan, Zisserman. Very Deep ConvNets. 2014, arXiv:1409.1556, section 3.1 (scale jitter), as used by
    SlowFast. The crop is cut at the original scale and then resized, so that only what is kept is computed; its place
    is rounded to whole pixels there.

    Attributes:
        min_px: shortest short side.
        max_px: longest, >= min_px.
        crop_px: side of the result, <= min_px.
    """

    min_px: int
    max_px: int
    crop_px: int

    def __post_init__(self) -> None:
        if not 0 < self.crop_px <= self.min_px <= self.max_px:
            raise ValueError(f"need 0 < crop_px <= min_px <= max_px, got {self.crop_px}, {self.min_px}, {self.max_px}")

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, crop_px, crop_px)."""
        height, width = _check_clip(clip)
        short_px = self.min_px + _below(self.max_px - self.min_px + 1, generator)
        side = max(1, min(round(self.crop_px * min(height, width) / short_px), height, width))
        top, left = _below(height - side + 1, generator), _below(width - side + 1, generator)
        return resize(crop(clip, top, left, side, side), self.crop_px, self.crop_px), _NOTHING


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a rectangle of random area and shape, then scale it to a square.

    Paper: Szegedy et al. Going Deeper with Convolutions. CVPR 2015, arXiv:1409.4842, section 6. Ten draws; if none
    fits, the largest centred rectangle of an allowed shape.

    Attributes:
        crop_px: side of the result.
        scale: range of the area as a share of the frame's.
        ratio: range of width / height, drawn on a logarithmic scale.
    """

    crop_px: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ValueError(f"need 0 < scale <= 1 and 0 < ratio, each ascending, got {self.scale} and {self.ratio}")

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return (T, C, crop_px, crop_px)."""
        height, width = _check_clip(clip)
        for _ in range(10):
            area = height * width * _uniform(*self.scale, generator)
            ratio = math.exp(_uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), generator))
            crop_w, crop_h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_w <= width and 0 < crop_h <= height:
                top, left = _below(height - crop_h + 1, generator), _below(width - crop_w + 1, generator)
                break
        else:
            ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
            crop_w = min(width, max(1, round(height * ratio)))
            crop_h = min(height, max(1, round(width / ratio)))
            top, left = (height - crop_h) // 2, (width - crop_w) // 2
        return resize(crop(clip, top, left, crop_h, crop_w), self.crop_px, self.crop_px), _NOTHING


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right with a probability; the x component of a flow clip changes its sign.

    A clip with C = 2 is optical flow (x, y). Stored as uint8 it has its zero at 128 (255 stands for +127), so x becomes
    256 - x, and 0 stays 0 as there is no 256; a floating clip has its zero at 0, so x becomes -x.

    Attributes:
        probability: of doing it, drawn once per clip.
    """

    probability: float = 0.5
    name: ClassVar[str] = "horizontal"

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return the clip, flipped or not, and {"horizontal"} if it was (`turn left` may need another label)."""
        _check_clip(clip)
        return _flip(clip, 3, 0, self.name) if _happens(self.probability, generator) else (clip, _NOTHING)


@dataclass(frozen=True)
class VerticalFlip:
    """Mirror top and bottom with a probability; the y component of a flow clip changes its sign.

    How flow is stored stands in `HorizontalFlip`.

    Attributes:
        probability: of doing it, drawn once per clip.
    """

    probability: float = 0.5
    name: ClassVar[str] = "vertical"

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return the clip, flipped or not, and {"vertical"} if it was."""
        _check_clip(clip)
        return _flip(clip, 2, 1, self.name) if _happens(self.probability, generator) else (clip, _NOTHING)


@dataclass(frozen=True)
class TimeReverse:
    """Play the clip backwards with a probability; both components of a flow clip change their sign.

    Attributes:
        probability: of doing it, drawn once per clip.
    """

    probability: float = 0.5
    name: ClassVar[str] = "time"

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return the clip, reversed or not, and {"time"} if it was (labels such as `opening` may need a swap)."""
        _check_clip(clip)
        if not _happens(self.probability, generator):
            return clip, _NOTHING
        clip = clip.flip(0)
        return (negated(clip) if clip.shape[1] == 2 else clip), frozenset({self.name})


def _happens(probability: float, generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _flip(clip: Tensor, side: int, component: int, name: str) -> tuple[Tensor, frozenset[str]]:
    flow = clip.shape[1] == 2
    clip = clip.flip(side)  # a copy
    if flow:
        clip[:, component] = negated(clip[:, component])
    return clip, frozenset({name})


def negated(flow: Tensor) -> Tensor:
    """Return flow with the sign changed: 256 - x for uint8 (zero at 128; 0 stays 0), -x for floating point."""
    if flow.dtype == torch.uint8:
        return torch.where(flow == 0, flow, 0 - flow)  # modulo 256
    return -flow


@dataclass(frozen=True)
class ChannelPermutation:
    """Put the three colours into a random order, the same for all frames.

    Attributes:
        probability: of doing it; the order is drawn from all six, the old one included.
    """

    probability: float = 0.5

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return (T, 3, H, W). ValueError for clips that have not three channels."""
        _check_clip(clip)
        if clip.shape[1] != 3:
            raise ValueError(f"colours are permuted in clips of 3 channels, got {clip.shape[1]}")
        if not _happens(self.probability, generator):
            return clip, _NOTHING
        return clip[:, torch.randperm(3, generator=generator)], _NOTHING


@dataclass(frozen=True)
class GainOffset:
    """Change contrast and brightness: each value becomes gain * value + offset, rounded and cut to 0-255.

    Attributes:
        gain: range of the factor.
        offset: range of the summand, in steps of 0-255.
    """

    gain: tuple[float, float] = (0.8, 1.2)
    offset: tuple[float, float] = (-20.0, 20.0)

    def __call__(self, clip: Tensor, generator: Generator) -> tuple[Tensor, frozenset[str]]:
        """Return a uint8 clip; one gain and one offset for all frames and channels. ValueError for other dtypes."""
        _check_clip(clip)
        if clip.dtype != torch.uint8:
            raise ValueError(f"GainOffset works on uint8 clips, got {clip.dtype}")
        gain, offset = _uniform(*self.gain, generator), _uniform(*self.offset, generator)
        table = (torch.arange(256) * gain + offset).round_().clamp_(0, 255).to(torch.uint8)
        return table[clip.int()], _NOTHING
