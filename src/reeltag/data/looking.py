"""What a model sees and hears of one clip: all modalities of a recipe by one draw, and which of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from reeltag.data.sources import Source, need_pictures
from reeltag.media.transforms import resize
from reeltag.recipe import DataSection
from reeltag.schema import INPUT_NAMES, Modality

FLOW_ZERO = 128


@dataclass(frozen=True)
class Seen:
    """The views of one clip.

    Attributes:
        inputs: tensors by their name in a batch, views first; none when the clip has no modality at all.
        present: by modality, in the order of the view; False where what stands in `inputs` is a filler.
        applied: the flips that were done.
    """

    inputs: dict[str, Tensor]
    present: tuple[bool, ...]
    applied: set[str] = field(default_factory=set)


class MediaView(Protocol):
    """A view of pictures, flow and sound."""

    @property
    def data(self) -> DataSection:
        """The recipe's section."""
        ...

    @property
    def modalities(self) -> Sequence[Modality]:
        """What is looked at, in the order of `MODALITIES`."""
        ...

    @property
    def without(self) -> frozenset[str]:
        """What counts as missing in every clip."""
        ...

    def choose(self, num_frames: int, fps: float, generator: Generator) -> Sequence[int]:
        """Return the frame numbers of all views."""
        ...

    def render(self, frames: Tensor, generator: Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (V, T, 3, H, W) and the flips that were applied."""
        ...

    def render_flow(self, flow: Tensor, generator: Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (V, T, C, H, W) of uint8 (T, 2 * stack, H, W); by the same state, the crops of `render`."""
        ...

    def listen(self, source: Source, generator: Generator) -> Tensor | None:
        """Return float32 (V, N), or None where nothing is to be heard."""
        ...

    def filler(self, modality: Modality) -> Tensor:
        """Return what stands in the place of a modality that a clip has not."""
        ...


def look(view: MediaView, source: Source, generator: Generator) -> Seen:
    """Return the views of one open clip.

    Pictures and flow are cropped and flipped alike; sound draws from a generator of its own. So a track that is missing
    changes nothing about the others.

    Raises:
        MediaError: the file cannot be read, or has no pictures and no sound is asked for.
    """
    if "audio" not in view.modalities:
        need_pictures(source)
    wanted = [modality for modality in view.modalities if modality not in view.without]
    found: dict[str, Tensor] = {}
    applied: set[str] = set()
    pictures = [modality for modality in wanted if modality != "audio"]
    if pictures and source.num_frames:
        found, applied = _pictures(view, source, generator, pictures)
    if "audio" in wanted and (wave := view.listen(source, generator)) is not None:
        found["waveform"] = wave
    present = tuple(INPUT_NAMES[modality] in found for modality in view.modalities)
    if not any(present):
        return Seen({}, present)
    for modality, there in zip(view.modalities, present, strict=True):
        if not there:
            found[INPUT_NAMES[modality]] = view.filler(modality)
    return Seen(found, present, applied)


def _pictures(
    view: MediaView, source: Source, generator: Generator, wanted: Sequence[Modality]
) -> tuple[dict[str, Tensor], set[str]]:
    indices = view.choose(source.num_frames, source.fps, generator)
    flow = source.has_flow and "flow" in wanted
    if "rgb" not in wanted:
        if not flow:
            return {}, set()
        clip, applied = view.render_flow(source.flow_at(indices, view.data.motion), generator)
        return {"flow": clip}, applied
    if not flow:
        clip, applied = view.render(source.frames_at(indices), generator)
        return {"video": clip}, applied
    source.keep(indices, view.data.motion)
    frames, field_ = source.frames_at(indices), source.flow_at(indices, view.data.motion)
    state = generator.get_state()
    clip, applied = view.render(frames, generator)
    generator.set_state(state)  # the flow is cropped and flipped by the same draws
    motion, _ = view.render_flow(resize(field_, *frames.shape[2:]), generator)
    return {"video": clip, "flow": motion}, applied


def picture_filler(shape: tuple[int, int, int, int], modality: Modality, data: DataSection) -> Tensor:
    """Return uint8 (V, T, C, H, W) that stands for missing pictures (zeros) or flow (no motion).

    Args:
        shape: V, T, H, W.
        modality: `rgb` or `flow`.
        data: the recipe's section.
    """
    views, frames, height, width = shape
    if modality == "rgb":
        return torch.zeros(views, frames, 3, height, width, dtype=torch.uint8)
    clip = torch.full((views, frames, data.flow.channels, height, width), FLOW_ZERO, dtype=torch.uint8)
    return as_image(clip[:, :, :2]) if data.flow.form == "image" else clip


def as_image(flow: Tensor) -> Tensor:
    """Return flow (..., T, 2, H, W) with a third channel of zeros."""
    return torch.cat([flow, torch.zeros_like(flow[..., :1, :, :])], -3)
