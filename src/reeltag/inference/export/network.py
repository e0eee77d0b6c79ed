"""What is exported: the network from a clip's bytes to probabilities, its named inputs, and drawn values for them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reeltag.data.sound_views import test_samples
from reeltag.data.views import TestView
from reeltag.inputs import modalities_of
from reeltag.models.interface import VideoModel
from reeltag.models.nlg_pooling import NonLocalPooling
from reeltag.models.scoring import Activation, probabilities
from reeltag.models.two_stream_3d import FusedTwoStream
from reeltag.recipe import Recipe
from reeltag.schema import INPUT_NAMES
from reeltag.store.calibration import HIGHEST, LOWEST, Calibration

OUTPUTS = ("probabilities", "logits")
_CLIP = ("frames", None, "height", "width")


@dataclass(frozen=True)
class Input:
    """One input of the exported network; the batch, its first axis, always varies.

    Attributes:
        name: `video`, `flow`, `waveform`, `features`, `mask` or `present`.
        dtype: of its values.
        sizes: at the recipe's test view, without the batch.
        axes: the name of each of these axes that varies, None where the size is fixed; axes of one name vary together.
    """

    name: str
    dtype: Literal["uint8", "float32", "bool"]
    sizes: tuple[int, ...]
    axes: tuple[str | None, ...]

    @property
    def shape(self) -> list[str | int]:
        """The shape as the file states it: names where it varies, the batch first."""
        return ["batch", *(axis or size for axis, size in zip(self.axes, self.sizes, strict=True))]

    def fixed(self, axes: Container[str | None]) -> Input:
        """Return the input with these axes fixed at their sizes."""
        return replace(self, axes=tuple(None if axis in axes else axis for axis in self.axes))


def inputs_of(model: VideoModel, recipe: Recipe) -> list[Input]:
    """Return the inputs of a recipe's model in the order of `PortableNetwork.forward`, with every axis that may vary.

    The sizes are those of the recipe's test view.
    """
    modalities = modalities_of(recipe, model)
    frames = recipe.data.num_frames
    if model.input_kind == "features":
        (drawn,) = model.example_input(1)
        wide = Input("features", "float32", (frames, int(drawn.shape[-1])), ("frames", None))
        if any(isinstance(layer, nn.RNNBase | NonLocalPooling) for layer in model.modules()):
            return [wide]  # these cut padding off, to lengths that no graph may depend on
        return [wide, Input("mask", "bool", (frames,), ("frames",))]
    side = TestView(recipe.data, recipe.test, modalities).size_px
    example = model.example_input(1)[0]
    own_axes = {"rgb", "flow"} <= set(modalities)
    found: list[Input] = []
    for modality in modalities:
        name = INPUT_NAMES[modality]
        if modality == "audio":
            found.append(Input(name, "float32", (test_samples(recipe.data.audio),), ("samples",)))
            continue
        channels = int((example[modality] if isinstance(example, Mapping) else example).shape[2])
        axes = tuple(f"{name}_{axis}" if axis and own_axes else axis for axis in _CLIP)
        found.append(Input(name, "uint8", (frames, channels, side, side), axes))
    if model.input_kind == "fusion" and not isinstance(model, FusedTwoStream):  # which needs both of every clip
        found.append(Input("present", "bool", (len(modalities),), (None,)))
    return found


class PortableNetwork(nn.Module):
    """A model with its normalisation and activation, from positional inputs to probabilities and logits.

    Args:
        model: in evaluation mode.
        names: of the inputs, see `inputs_of`.
        activation: of the recipe's test section.
        calibration: of the probabilities, if there is one; logits are as the model gives them.
    """

    slopes: Tensor
    shifts: Tensor

    def __init__(
        self,
        model: VideoModel,
        names: Sequence[str],
        activation: Activation,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        self.calibrates = calibration is not None and calibration.changes_scores
        if calibration is not None and calibration.changes_scores:
            self.register_buffer("slopes", torch.tensor(calibration.slopes, dtype=torch.float32))
            self.register_buffer("shifts", torch.tensor(calibration.shifts, dtype=torch.float32))
        self.model = model
        self.names = tuple(names)
        self.activation: Activation = activation

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (calibrated) probabilities (B, L) in [0, 1] and the logits (B, L) they come from, both float32."""
        logits = self.model(*self._arguments(inputs)).float()
        return self.of_probabilities(probabilities(logits, self.activation)), logits

    def of_probabilities(self, values: Tensor) -> Tensor:
        """Return what the calibration makes of (B, L) probabilities."""
        if not self.calibrates:
            return values
        kept = values.clamp(LOWEST, HIGHEST)
        return torch.sigmoid(self.slopes * (kept.log() - (-kept).log1p()) + self.shifts)

    def _arguments(self, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
        if self.model.input_kind != "fusion":
            return tuple(inputs)
        given = dict(zip(self.names, inputs, strict=True))
        present = given.pop("present", None)
        modality = {name: modality for modality, name in INPUT_NAMES.items()}
        return {modality[name]: each for name, each in given.items()}, present

    def inputs_from(self, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the positional inputs of what `reeltag.models.scoring.model_inputs` gives."""
        first, *rest = arguments
        if isinstance(first, Mapping):
            given: dict[str, Any] = {INPUT_NAMES[modality]: each for modality, each in first.items()}
            given["present"] = rest[0]
            return tuple(given[name] for name in self.names)
        if self.model.input_kind == "features":
            mask = rest[0] if rest[0] is not None else torch.ones(first.shape[:2], dtype=torch.bool)
            return (first, mask)[: len(self.names)]
        return (first,)


def draw(
    inputs: Sequence[Input], batch_size: int, sizes: Mapping[str, int] | None = None, *, seed: int = 0
) -> tuple[Tensor, ...]:
    """Return drawn values of a batch.

    Args:
        inputs: see `inputs_of`.
        batch_size: B. From the second clip on some frames are padding and some modalities missing.
        sizes: of named axes, in place of the test view's.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = sizes or {}
    return tuple(
        _values(
            each, [batch_size, *(wanted.get(a or "", s) for a, s in zip(each.axes, each.sizes, strict=True))], generator
        )
        for each in inputs
    )


def _values(given: Input, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    if given.dtype == "uint8":
        return torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
    if given.dtype == "bool":
        there = torch.ones(*shape, dtype=torch.bool)
        there[1:, shape[1] // 2 + 1 :] = False
        return there
    if given.name == "waveform":
        return 0.6 * torch.rand(*shape, generator=generator) - 0.3
    return torch.randn(*shape, generator=generator)
