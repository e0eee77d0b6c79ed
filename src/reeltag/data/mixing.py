"""Training clips mixed with a second clip: between-class learning, mixup, cutmix, and smoothed targets."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.special import betaincinv
from torch import Generator, Tensor
from torch.utils.data import Dataset

from reeltag.data.dataset import ClipDataset
from reeltag.data.example_order import Key, mix
from reeltag.data.sound_mixing import mix_sounds
from reeltag.sections import MixSection

# The ways that take any input; the others are made for pictures: cutmix pastes a box, the zero-mean form corrects for
# contrast, as `reeltag.data.sound_mixing` corrects for loudness.
MIXES_ALL = frozenset({"between_class", "mixup"})
_INPUTS = ("video", "flow", "waveform", "features")
_DRAW, _PARTNER = 0x6D6978, 1 << 32  # set the draws of mixing apart from those of clips
_TRIES = 16


def blend(first: Tensor, second: Tensor, ratio: float) -> Tensor:
    """Return ratio x first + (1 - ratio) x second, frame by frame; uint8 is rounded.

    Between-class learning for video (RippleAI, Multi-Moments in Time 2019, after Tokozume, Ushiku, Harada,
    arXiv:1711.10284, section 3.1) and mixup (Zhang et al., arXiv:1710.09412, eq. 1) both mix so.

    Args:
        first: a clip of any shape.
        second: of the same shape.
        ratio: share of the first, in [0, 1].

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(first, second)
    return _like(first, second.float().lerp(first.float(), ratio))


def blend_zero_mean(first: Tensor, second: Tensor, ratio: float) -> Tensor:
    """Return the mixture of two clips as waves: without their means, and at equal energy.

    (p x1 + (1 - p) x2) / sqrt(p^2 + (1 - p)^2) with p = 1 / (1 + s1 / s2 (1 - r) / r), x_i the clip without its mean
    and s_i its standard deviation: r is the share that is perceived, p corrects for contrast.

    Paper: Tokozume, Ushiku, Harada. Between-class Learning for Image Classification. CVPR 2018, arXiv:1711.10284,
    section 3.2 (BC+). Departures: the means are over a clip in place of an image; and for uint8 clips the mean that the
    paper drops is put back, mixed by the same ratio, so that mixed clips are pictures like those that are tested. A
    clip of floats comes back with mean 0, as in the paper.

    Args:
        first: a clip of any shape.
        second: of the same shape.
        ratio: share of the first, in [0, 1].

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(first, second)
    if ratio in (0.0, 1.0):
        chosen = first if ratio else second
        return chosen.clone() if chosen.dtype == torch.uint8 else chosen - chosen.mean()
    one, two = first.double(), second.double()
    means = float(one.mean()), float(two.mean())
    # A clip of one colour has no contrast: it adds nothing but its mean.
    contrast = float(one.std(correction=0)) / max(float(two.std(correction=0)), 1e-12)
    share = 1 / (1 + contrast * (1 - ratio) / ratio)
    waves = share * (one - means[0]) + (1 - share) * (two - means[1])
    waves = waves / math.hypot(share, 1 - share)
    if first.dtype == torch.uint8:
        waves = waves + ratio * means[0] + (1 - ratio) * means[1]
    return _like(first, waves)


def paste(first: Tensor, second: Tensor, ratio: float, generator: Generator) -> tuple[Tensor, float]:
    """Return the first clip with a box of the second in every frame, and the share of its pixels that are left.

    The box has the clip's shape, 1 - ratio of its area and a centre drawn evenly; what lies outside is cut off, so the
    share may be larger than the ratio. Paper: Yun et al. CutMix, ICCV 2019, arXiv:1905.04899, section 3.1; one box for
    all frames, so that what is pasted moves like a video.

    Args:
        first: (..., H, W).
        second: of the same shape.
        ratio: wanted share of the first, in [0, 1].
        generator: of the centre.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(first, second)
    height, width = first.shape[-2:]
    side = math.sqrt(1 - ratio)
    box = round(height * side), round(width * side)
    centre = torch.rand(2, generator=generator)
    top, left = int(centre[0] * height) - box[0] // 2, int(centre[1] * width) - box[1] // 2
    rows = slice(max(0, top), max(0, min(height, top + box[0])))
    columns = slice(max(0, left), max(0, min(width, left + box[1])))
    mixed = first.clone()
    mixed[..., rows, columns] = second[..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / (height * width)


def at_depth(features: Tensor, num_frames: int) -> Tensor:
    """Return (V, num_frames, D) of (V, T, D): the vectors at even places, so that two videos are equally deep."""
    places = ((torch.arange(num_frames) + 0.5) * (features.shape[1] / num_frames)).long()
    return features[:, places.clamp(max=features.shape[1] - 1)]


def draw_ratio(section: MixSection, generator: Generator) -> float:
    """Return the share of the first clip: even in [0, 1) for between-class learning, else from Beta(alpha, alpha)."""
    even = float(torch.rand((), generator=generator, dtype=torch.float64))
    if section.name.startswith("between_class") or section.alpha == 1:
        return even
    return float(betaincinv(section.alpha, section.alpha, even))


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Return targets y (1 - s) + s / 2: label smoothing for labels that are independent, with the two answers alike.

    Paper: Szegedy et al. Rethinking the Inception Architecture, arXiv:1512.00567, section 7, for each label on its own.
    """
    return targets * (1 - smoothing) + smoothing / 2


class MixedClips(Dataset[dict[str, Any]]):
    """The clips of a data set, each mixed with another training clip, their targets alike: real values in [0, 1].

    Partner, ratio and place depend on (seed, epoch, row, copy) alone, so neither workers nor processes nor a resume
    change them; the partner is a drawn clip of its own, not the one that it gives in this epoch. That reads and decodes
    two clips for one. Between-class learning takes a partner with other labels where one is found in a few draws. A
    partner that cannot be read leaves the clip as it is, and so does one that has none of the recipe's modalities. What
    is unknown in either clip is unknown in the mixture. Pictures, flow and sound are mixed by one ratio; sounds by how
    loud they are heard, and amplified afterwards. A modality that one of the two has not is that of the other one
    alone. Of stored features the partner gives as many as the clip has, at even places.

    Args:
        clips: the data set.
        rows: the rows that partners come from.
        section: the recipe's `data.mix`; None mixes nothing.
        smoothing: of the targets, after mixing.
    """

    def __init__(self, clips: ClipDataset, rows: list[int], section: MixSection | None, smoothing: float = 0.0) -> None:
        self.clips, self.rows, self.section, self.smoothing = clips, rows, section, smoothing
        self.footage, self.view = clips.footage, clips.view
        self.targets, self.ignore = clips.targets, clips.ignore

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        item = self.clips.as_recorded(key)
        if "targets" not in item:
            return item
        if self.section is not None:
            item = self._mixed(item, key, self.section)
        if self.smoothing:
            item = {**item, "targets": smooth(item["targets"].float(), self.smoothing)}
        return self.clips.amplified(item, key)

    def _mixed(self, item: dict[str, Any], key: Key, section: MixSection) -> dict[str, Any]:
        epoch, row, copy = key
        generator = Generator().manual_seed(mix(self.clips.seed, epoch, row, copy, _DRAW))
        targets = item["targets"].float()
        if float(torch.rand((), generator=generator)) >= section.probability:
            return {**item, "targets": targets}
        other = self._partner(row, section, generator)
        partner = self.clips.as_recorded((epoch, other, _PARTNER + mix(row, copy) % _PARTNER))
        if "targets" not in partner:
            return {**item, "targets": targets}
        ratio = draw_ratio(section, generator)
        mixed, ratio = self._inputs(item, partner, ratio, section, generator)
        return {
            **item,
            **mixed,
            "targets": ratio * targets + (1 - ratio) * partner["targets"].float(),
            "ignore": item["ignore"] | partner["ignore"],
        }

    def _inputs(
        self, item: dict[str, Any], partner: dict[str, Any], ratio: float, section: MixSection, generator: Generator
    ) -> tuple[dict[str, Any], float]:
        """Return the mixed inputs with what is present of them, and the share of the first clip."""
        names = [name for name in _INPUTS if name in item]
        mixed: dict[str, Any] = {}
        state, left = generator.get_state(), ratio
        if "present" in item:
            mixed["present"] = item["present"] | partner["present"]
        for column, name in enumerate(names):
            first, second = item[name], partner[name]
            if "present" in item and not bool(item["present"][column] & partner["present"][column]):
                mixed[name] = first if item["present"][column] else second
            elif name == "waveform":
                mixed[name] = self._sounds(first, second, ratio)
            elif section.name == "cutmix":
                generator.set_state(state)  # one box for pictures and flow
                mixed[name], left = paste(first, second, ratio, generator)
            else:
                second = at_depth(second, first.shape[1]) if name == "features" else second
                mixed[name] = _WAYS[section.name](first, second, ratio)
        return mixed, left

    def _sounds(self, first: Tensor, second: Tensor, ratio: float) -> Tensor:
        rate_hz = self.view.data.audio.rate_hz
        return torch.stack([mix_sounds(one, two, ratio, rate_hz) for one, two in zip(first, second, strict=True)])

    def _partner(self, row: int, section: MixSection, generator: Generator) -> int:
        drawn = torch.randint(len(self.rows), (_TRIES,), generator=generator).tolist()
        others = [self.rows[index] for index in drawn if self.rows[index] != row] or [row]
        if section.name.startswith("between_class"):
            own = self.targets[row]
            return next((other for other in others if not torch.equal(self.targets[other], own)), others[0])
        return others[0]


_WAYS = {"between_class": blend, "between_class_zero_mean": blend_zero_mean, "mixup": blend}


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"two clips are mixed at one size, got {tuple(first.shape)} and {tuple(second.shape)}")


def _like(clip: Tensor, values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8) if clip.dtype == torch.uint8 else values.to(clip.dtype)
