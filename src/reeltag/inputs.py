"""What a model takes and a footage gives: the modalities of a recipe, and the errors where the two do not fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from reeltag.data.footage import FeatureFootage, Footage, MediaFootage, PackedFootage
from reeltag.data.sound_views import test_samples, training_samples
from reeltag.errors import RecipeError
from reeltag.models import MODELS
from reeltag.models.fusion import FusionModel
from reeltag.models.interface import VideoModel
from reeltag.models.thresholded import ThresholdedModel
from reeltag.recipe import Recipe
from reeltag.schema import Modality

_TAKEN: dict[str, tuple[Modality, ...]] = {"rgb": ("rgb",), "flow": ("flow",), "waveform": ("audio",), "features": ()}


def modalities_of(recipe: Recipe, model: VideoModel) -> tuple[Modality, ...]:
    """Return the modalities that a recipe gives its model, in the order of `MODALITIES`; none for stored features.

    Raises:
        RecipeError: `data.modalities` names what the model does not take.
    """
    taken = _TAKEN.get(model.input_kind) if model.input_kind != "fusion" else _of_fusion(model)
    taken = taken or ()
    stated = recipe.data.modalities
    if stated is None or tuple(stated) == taken:
        return taken
    if model.input_kind == "rgb" and stated == ["flow"]:  # any network of clips, with other channels
        return ("flow",)
    allowed = f"[{', '.join(taken)}]" if taken else "none (it learns from stored features)"
    also = " or [flow]" if model.input_kind == "rgb" else ""
    raise RecipeError(
        f"data.modalities={stated}: {recipe.model.name} takes {allowed}{also}; leave the key out, or choose a model of "
        "these (fusion_... and two_stream_... take several)"
    )


def _of_fusion(model: VideoModel) -> tuple[Modality, ...]:
    inner = model.net if isinstance(model, ThresholdedModel) else model
    modalities: tuple[Modality, ...] = getattr(inner, "modalities", ("rgb", "flow"))
    return modalities


def check_input(model: VideoModel, recipe: Recipe, footage: Footage) -> None:
    """Raise RecipeError when a model and a footage do not fit: features and pictures, sound, flow, their rates."""
    name = recipe.model.name
    if model.input_kind == "features" and footage.input_kind != "features":
        raise RecipeError(
            f"{name} learns from stored features, and the manifest names videos; first "
            "`reeltag extract MODEL_OR_BACKBONE MANIFEST --out DIR`, then give DIR as --manifest"
        )
    if model.input_kind != "features" and isinstance(footage, FeatureFootage):
        raise RecipeError(
            f"{name} learns from {'sound' if model.input_kind == 'waveform' else 'pixels'}, and the manifest holds "
            "features; give the manifest of the videos, or a model on features (`reeltag list models 'frames_*'`)"
        )
    modalities = modalities_of(recipe, model)
    if isinstance(model, ThresholdedModel) and model.input_kind == "fusion":
        raise RecipeError(f"loss.thresholds needs a model of one modality, and {name} takes several; set it to none")
    if not isinstance(footage, MediaFootage):
        return
    if "audio" in modalities:
        _check_sound(model, recipe, footage)
    if modalities == ("audio",) and recipe.test.crops != 1:
        raise RecipeError(f"test.crops={recipe.test.crops}: sound has no crops of pictures; set test.crops=1")
    if "flow" in modalities:
        _check_flow(model, recipe, footage, alone=modalities == ("flow",))
    if "audio" not in modalities and isinstance(footage, PackedFootage):
        videos = footage.videos
        if not any(videos.num_frames(row) for row in range(len(videos))):
            raise RecipeError(f"{name} learns from pictures, and {videos.folder} holds sound alone; choose another")


def _check_sound(model: VideoModel, recipe: Recipe, footage: MediaFootage) -> None:
    audio, name = recipe.data.audio, recipe.model.name
    inner = model.net if isinstance(model, ThresholdedModel) else model
    heard_by = inner if inner.input_kind == "waveform" else getattr(inner, "streams", {}).get("audio")
    rate_hz = getattr(heard_by, "rate_hz", audio.rate_hz)
    if rate_hz != audio.rate_hz:
        raise RecipeError(f"data.audio.rate_hz={audio.rate_hz}: {name} hears {rate_hz} Hz; set data.audio.rate_hz")
    if getattr(heard_by, "fixed_length", False):
        wanted: int = heard_by.num_samples  # type: ignore[union-attr,assignment]
        given = {training_samples(audio), test_samples(audio), round(audio.range_seconds[0] * audio.rate_hz)}
        if given != {wanted}:
            raise RecipeError(
                f"{name} takes exactly {wanted} samples, and data.audio gives {', '.join(map(str, sorted(given)))}; "
                f"set data.audio.seconds={wanted / rate_hz:.6f} without min_seconds and max_seconds, or "
                "model.num_samples"
            )
    if isinstance(footage, PackedFootage):
        stored = footage.videos.settings["audio_rate_hz"]
        if stored is None or stored < audio.rate_hz:
            what = "no sound" if stored is None else f"sound at {stored} Hz"
            raise RecipeError(
                f"{footage.videos.folder} holds {what}, and the recipe asks for {audio.rate_hz} Hz; pack again with "
                f"`--audio-rate-hz {audio.rate_hz}`, or give the manifest of the files"
            )


def _check_flow(model: VideoModel, recipe: Recipe, footage: MediaFootage, *, alone: bool) -> None:
    flow, section = recipe.data.flow, recipe.model
    schema, options = MODELS.schema(section.name), section.options
    key = "in_channels" if alone else "flow_channels"
    taken: int | None = None
    if key in schema:
        taken = options.get(key, schema[key].default)
    elif isinstance(model, FusionModel):
        key, taken = "streams.flow.in_channels", model.streams["flow"].clip_shape[1]
    if taken is not None and taken != flow.channels:
        raise RecipeError(
            f"{section.name} takes {taken} channels of flow (model.{key}), and data.flow gives {flow.channels} "
            f"(2 x stack, or 3 as an image); set model.{key}={flow.channels}, or data.flow.stack"
        )
    if footage.flow is None:
        if flow.method == "raft":
            raise RecipeError(
                "data.flow.method=raft is computed beforehand: `reeltag flow MANIFEST --method raft --out DIR`, then "
                "give DIR as --flow; or choose dis or tvl1"
            )
        from reeltag.media.flow import require_opencv

        require_opencv(flow.method)
        return
    for key, stored, wanted in _of_stored_flow(recipe, footage, footage.flow.settings):
        if stored != wanted:
            raise RecipeError(
                f"the stored flow has {key}={stored}, and the recipe data.flow.{key}={wanted}; set the one that you "
                "mean, or store the flow again"
            )


def _of_stored_flow(recipe: Recipe, footage: MediaFootage, settings: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what must be equal, so that a vector means the same in the store and where flow is made of frames."""
    flow = recipe.data.motion
    for key in ("method", "step", "bound_px", "form", "fps"):
        yield key, settings[key], getattr(flow, key)
    # What is packed smaller is not enlarged, neither in the store nor here.
    most = footage.videos.settings["short_side_px"] if isinstance(footage, PackedFootage) else sys.maxsize
    sizes = [(one["short_side_px"], one["compute_px"]) for one in (settings, flow.model_dump())]
    (stored, stored_at), (wanted, wanted_at) = [(min(a, most), min(b or a, most)) for a, b in sizes]
    yield "short_side_px", stored, wanted
    yield "compute_px", stored_at, wanted_at
