"""Published weights to our models: one file a source, each a table of names; left-over and missing keys are errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from reeltag.registry import Registry


@dataclass(frozen=True)
class Converted:
    """A published checkpoint in our terms.

    Attributes:
        weights: the tensors under our names, in our shapes.
        options: what the source, and the keys themselves, say about the model: num_frames, shift rule, lateral form ...
            An option that the caller gives goes before these.
        name: the model that the weights are for, when the keys decide it; else None, the caller's name.
        drawn: how the names of our tensors begin that the source has nothing for; they stay as drawn.
    """

    weights: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    drawn: tuple[str, ...] = ()


# A source is a function (name of our model or layer, unwrapped tensors) -> Converted.
Source = Callable[[str, Mapping[str, Tensor]], Converted]
SOURCES: Registry[Converted] = Registry("source", "reeltag.hub.convert")
