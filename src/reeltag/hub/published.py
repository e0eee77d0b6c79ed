"""`from_published`: build one of our models, or layers, from published weights; `read_published` reads their files."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reeltag.errors import RecipeError, StoreError
from reeltag.hub.convert import SOURCES
from reeltag.hub.convert.renaming import unwrap
from reeltag.layers import LAYERS
from reeltag.models import BACKBONES, MODELS
from reeltag.models.image2d import fit_input_channels
from reeltag.models.interface import VideoModel
from reeltag.store.checkpoint import read_tensors

_COUNTER = "num_batches_tracked"
_SHOWN = 12


@dataclass(frozen=True)
class Published:
    """A model, or layer, that holds published weights, and what builds it again.

    Attributes:
        module: in evaluation mode.
        name: its registered name.
        options: its options, those of the source included; without num_labels.
        classifier: whether the weights hold one; else it is drawn.
    """

    module: Any
    name: str
    options: dict[str, Any]
    classifier: bool = True


def from_published(
    state_dict: Mapping[str, Any], source: str, name: str, *, num_labels: int | None = None, **options: Any
) -> Any:
    """Build a model, or a layer, and load published weights into it, the published file's own layout being known.

    Args:
        state_dict: what the published file holds: a state dict, wrapped (`state_dict`, `model_state`) or not, with the
            `module.` of data-parallel training or not.
        source: where the weights come from; `reeltag list sources` shows the names.
        name: our model (`tsm_resnet50`), layer (`temporal_interlace`) or image backbone (`polynet`: its TSN).
        num_labels: L; another number than the checkpoint's replaces the classifier by a drawn one, and warns. A
            checkpoint without classifier (VGGish) gets a drawn one.
        **options: the model's own, before those that the source and the keys determine. With another `in_channels`
            than the weights have, the first convolution is averaged over its channels, as TSN does for flow.

    Returns:
        The model in evaluation mode.

    Raises:
        UnknownName: no such source or model.
        RecipeError: an option that the model does not take.
        StoreError: keys are missing, left over, or of another shape; the message lists them.
    """
    return build_published(state_dict, source, name, num_labels=num_labels, options=options).module


def build_published(
    state_dict: Mapping[str, Any],
    source: str,
    name: str,
    *,
    num_labels: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Published:
    """Do what `from_published` does, and also return the name and options that build the model again."""
    converted = SOURCES[source](name, unwrap(state_dict))
    name = converted.name or name
    if name in BACKBONES:
        name = f"tsn_{name}"
    weights, chosen = dict(converted.weights), {**converted.options, **(options or {})}
    if name in LAYERS and name not in MODELS:
        layer: Any = _build(LAYERS, name, chosen)
        _load(layer, weights, f"{source} weights for layer {name}")
        return Published(layer.eval(), name, chosen)
    published = _count_labels(weights)
    model: VideoModel = _build(MODELS, name, {**chosen, "num_labels": published or num_labels or 1})
    _load(model, weights, f"{source} weights for {name}", converted.drawn)
    if published is not None and num_labels is not None and num_labels != published:
        model.reset_classifier(num_labels)
        warnings.warn(
            f"the {source} weights have {published} labels, {num_labels} were asked for: the classifier is drawn anew",
            stacklevel=3,
        )
    return Published(model.eval(), name, chosen, published is not None)


def _count_labels(weights: Mapping[str, Tensor]) -> int | None:
    sizes = [value.shape[0] for key, value in weights.items() if key.startswith("classifier") and value.ndim]
    return sizes[-1] if sizes else None


def _build(registry: Any, name: str, options: dict[str, Any]) -> Any:
    taken = inspect.signature(registry[name]).parameters
    registry.check(name, {key: value for key, value in options.items() if key not in taken})
    try:
        return registry.build(name, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{registry.kind} {name!r}: {error}") from error


def _load(module: nn.Module, weights: Mapping[str, Tensor], what: str, drawn: tuple[str, ...] = ()) -> None:
    own = {
        key: value
        for key, value in module.state_dict().items()
        if not key.endswith(_COUNTER) and not key.startswith(drawn)
    }
    weights = fit_input_channels(weights, own)
    missing, left_over = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if own[key].shape != weights[key].shape
    ]
    if missing or left_over or wrong:
        lists = {"missing": missing, "left over": left_over, "other shape": sorted(wrong)}
        raise StoreError(
            f"{what} do not fit: "
            + "; ".join(f"{word} ({len(keys)}): {_shown(keys)}" for word, keys in lists.items() if keys)
            + ". Check the source, the name and the options that change the layers"
        )
    module.load_state_dict(dict(weights), strict=False)


def _shown(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def read_published(path: str | Path) -> dict[str, Any]:
    """Read a published checkpoint file: safetensors, or torch's own format with weights alone (no code is run).

    Raises:
        StoreError: no such file, or one that needs pickle to run code.
    """
    file = Path(path)
    if not file.is_file():
        raise StoreError(
            f"{path} is not a file; give the checkpoint that the authors published (.pth, .pt, .safetensors)"
        )
    if file.suffix == ".safetensors":
        return dict(read_tensors(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on the protocol of files that are refused anyway
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on a file that is no checkpoint, torch raises whatever it stumbles on
        reason = str(error).split("\n")[0][:200]
        raise StoreError(
            f"{path} cannot be read as weights alone ({reason}); a file that holds Python objects or Caffe2 blobs must "
            "be saved again as a plain state dict by the code that it belongs to"
        ) from error
    if not isinstance(found, dict):
        raise StoreError(f"{path} holds a {type(found).__name__}, not a dictionary of weights")
    return found
