"""A trained model ready to run: built, with its weights, on its device, in the precision of the hardware."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from reeltag.build import build_model, without_starts
from reeltag.errors import StoreError
from reeltag.hardware import resolve_device, resolve_precision
from reeltag.hub.bundle import TrainedModel, read_trained
from reeltag.models.interface import VideoModel


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with what it was trained by.

    Attributes:
        model: on `device`, in evaluation mode.
        trained: recipe, labels, thresholds and digests.
        device: where it runs.
        autocast: makes the context in which `forward` runs.
    """

    model: VideoModel
    trained: TrainedModel
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]


def load_trained(path: str, *, device: str = "auto", checkpoint: str = "last") -> Loaded:
    """Read and build a run folder or bundle; StoreError when its weights do not fit its recipe."""
    trained = read_trained(path, checkpoint=checkpoint)
    target = resolve_device(device)
    recipe = without_starts(trained.recipe)
    model = build_model(recipe, len(trained.label_names))
    try:
        model.load_state_dict(trained.weights)
    except RuntimeError as error:
        raise StoreError(
            f"the weights of {path} do not fit its recipe: {str(error).splitlines()[-1].strip()}"
        ) from None
    model.to(target).eval()
    bf16 = resolve_precision(recipe.train.precision, device) == "bf16"

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(target.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    return Loaded(model, trained, target, autocast)
