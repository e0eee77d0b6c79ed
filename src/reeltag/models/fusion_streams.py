"""The streams of a model of several modalities: registered models by name, without their classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import TrainsItself
from reeltag.registry import close_name
from reeltag.schema import MODALITIES

Streams = Mapping[str, str | Mapping[str, Any]]
# Small networks for small clips: what a recipe names none of.
DEFAULT_STREAMS: Streams = {"rgb": "tsm_mini", "flow": "tsn_mini", "audio": "logmel_mini"}
_KINDS = {"rgb": ("rgb",), "flow": ("rgb", "flow"), "audio": ("waveform",)}
FLOW_CHANNELS = 2


def build_streams(
    streams: Streams | None, *, num_frames: int | None = None, pretrained: bool = False
) -> tuple[dict[str, VideoModel], dict[str, str]]:
    """Build one model a modality, without its classifier.

    Args:
        streams: modality to a model's name, or to its options with `name` among them. `pretrained` of a stream is true
            for image weights, or the path of a run folder or bundle that it starts from. A flow stream takes 2 channels
            when it does not say otherwise. None takes `DEFAULT_STREAMS`.
        num_frames: T, for the streams that depend on it and do not give their own.
        pretrained: start every stream that can from image weights.

    Returns:
        The models in the order of `MODALITIES`, and the paths of those that start from a run or a bundle.

    Raises:
        ValueError: fewer than two modalities, an unknown one, a stream without name, or of another kind of input.
        UnknownName, RecipeError: a model that does not exist, or an option that it does not take.
    """
    given = DEFAULT_STREAMS if streams is None else streams
    for name in given:
        if name not in MODALITIES:
            raise ValueError(
                f"{name!r} is no modality. {close_name(name, list(MODALITIES))}Streams are {', '.join(MODALITIES)}"
            )
    if len(given) < 2:
        raise ValueError(f"a fusion takes two modalities or more of {', '.join(MODALITIES)}; got {', '.join(given)}")
    built: dict[str, VideoModel] = {}
    starts: dict[str, str] = {}
    for modality in (name for name in MODALITIES if name in given):
        options = _options(modality, given[modality])
        if isinstance(options.get("pretrained"), str):
            starts[modality] = options.pop("pretrained")
        built[modality] = _build(modality, options, num_frames, pretrained)
    return built, starts


def _options(modality: str, given: str | Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    if not isinstance(options.get("name"), str):
        raise ValueError(f"the {modality} stream needs the name of a model, for example {DEFAULT_STREAMS[modality]}")
    return options


def _build(modality: str, options: dict[str, Any], num_frames: int | None, pretrained: bool) -> VideoModel:
    name = options.pop("name")
    schema = MODELS.schema(name)
    if modality == "flow" and "in_channels" in schema:
        options.setdefault("in_channels", FLOW_CHANNELS)
    if num_frames is not None and "num_frames" in schema:
        options.setdefault("num_frames", num_frames)
    if pretrained and "pretrained" in schema:
        options.setdefault("pretrained", True)
    MODELS.check(name, options)
    model = MODELS.build(name, num_labels=1, **options)
    if model.input_kind not in _KINDS[modality] or isinstance(model, TrainsItself):
        raise ValueError(
            f"{name} takes {model.input_kind}, the {modality} stream is given {' or '.join(_KINDS[modality])}; "
            f"choose a model such as {DEFAULT_STREAMS[modality]}"
        )
    model.drop_classifier()
    return model
