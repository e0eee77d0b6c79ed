"""Non-local gating, NLG(X): a non-local block on feature maps, a pooling X, an MLP and context gating."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import widen
from reeltag.models import MODELS
from reeltag.models.feature_head import (
    FeatureHead,
    HeadOptions,
    build_classifier,
    head_parameters,
    set_classifier_bias,
)
from reeltag.models.feature_model import FeatureModel, check_features
from reeltag.models.frame_set import signature
from reeltag.models.interface import VideoModel
from reeltag.models.nlg_pooling import POOLINGS, NonLocalPooling
from reeltag.models.tsn import TemporalSegmentNetwork

HEAD: dict[str, Any] = {
    "fc": 1024,
    "fc_norm": True,
    "fc_activation": "relu",
    "gating": "cg",
    "dropout": 0.5,
    "experts": 0,
}


class _NonLocalGating(VideoModel):
    """What both forms share: maps (B, C, T, H, W) to logits."""

    def _set_up(self, pooling: NonLocalPooling, num_labels: int, options: HeadOptions) -> None:
        self.pooling, self.options = pooling, options
        self.head = FeatureHead(pooling.out_features, options, fc_std=pooling.fc_std)
        self.num_features = self.head.out_features
        self.reset_classifier(num_labels)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits of what was pooled, or the gated values (B, num_features) with `pre_logits`."""
        values = self.head(features)
        return values if pre_logits else widen(self.classifier(values))

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifier by a freshly drawn one."""
        self.classifier = build_classifier(self.num_features, num_labels, self.options)
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the classifier's bias so that an input of zeros scores about sigmoid((L,) logits)."""
        set_classifier_bias(self.classifier, logits)


class NonLocalGating(_NonLocalGating):
    """NLG(X) on the map of any backbone, trained end to end.

    Source: Yu, Kwon, Lee, Kim (RippleAI, SNU). Continuous Tracks CNN and Non-local Gating for Multi-class Video
    Understanding. Multi-Moments in Time challenge 2019, section 2.3. Sizes of the MLP and of X are not in the report.

    Args:
        backbone: a model with a map (B, D, t, h, w), or (B, T, D, h, w) of a frame network; its classifier is dropped.
        pooling: on maps of D channels.
        num_labels: L.
        options: of the MLP, gate and classifier.
    """

    def __init__(self, backbone: VideoModel, pooling: NonLocalPooling, num_labels: int, options: HeadOptions) -> None:
        super().__init__()
        self.backbone, self.clip_shape = backbone, backbone.clip_shape
        backbone.classifier = nn.Identity()
        self._set_up(pooling, num_labels, options)

    def blocks(self) -> list[nn.Module]:
        """Return the backbone's blocks."""
        return list(self.backbone.blocks())

    def maps(self, clip: Tensor) -> Tensor:
        """Return the backbone's map as (B, D, T, h, w)."""
        maps = self.backbone.forward_features(clip)
        if maps.ndim != 5:
            raise ValueError(
                f"{type(self.backbone).__name__} gives features of shape {tuple(maps.shape)}, and a non-local block "
                "needs maps (B, D, T, h, w): take a convolutional backbone"
            )
        return maps.transpose(1, 2) if isinstance(self.backbone, TemporalSegmentNetwork) else maps

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return what X makes of the backbone's map, (B, pooled), for a clip (B, T, C, H, W)."""
        pooled: Tensor = self.pooling(self.maps(clip))
        return pooled


class FramesNonLocalGating(_NonLocalGating, FeatureModel):
    """NLG(X) on maps that were computed before, flattened in the order channels, rows, columns.

    Source: as `NonLocalGating`.

    Args:
        feature_sizes: one stream of C * h * w values.
        map_px: (h, w); (1, 1) takes vectors.
        pooling: on maps of C channels.
        num_labels: L.
        options: of the MLP, gate and classifier.
    """

    num_frames = 16

    def __init__(
        self,
        feature_sizes: Sequence[int],
        map_px: Sequence[int],
        pooling: NonLocalPooling,
        num_labels: int,
        options: HeadOptions,
    ) -> None:
        super().__init__()
        self.feature_sizes, self.map_px = tuple(feature_sizes), (map_px[0], map_px[1])
        self._set_up(pooling, num_labels, options)

    def forward_features(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what X makes of features (B, T, C * h * w) with mask (B, T), (B, pooled)."""
        check_features(clip, self.feature_sizes)
        if mask is not None:
            clip = clip.masked_fill(~mask.unsqueeze(-1), 0)
        maps = clip.unflatten(2, (-1, *self.map_px)).transpose(1, 2)  # (B, C, T, h, w)
        pooled: Tensor = self.pooling(maps, mask)
        return pooled


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _one_stream(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(default=(512,)) if parameter.name == "feature_sizes" else parameter


def channels_of(feature_sizes: Sequence[int], map_px: Sequence[int]) -> int:
    """Return C of flattened maps; ValueError when there are several streams or the sizes do not fit."""
    places = map_px[0] * map_px[1]
    if len(feature_sizes) != 1 or feature_sizes[0] % places:
        raise ValueError(
            f"one stream of flattened maps has a multiple of {map_px[0]} x {map_px[1]} values, got feature_sizes "
            f"{list(feature_sizes)}; set model.map_px to the size of your maps, [1, 1] for vectors"
        )
    return feature_sizes[0] // places


def _register(name: str) -> None:
    layer, _, defaults = POOLINGS[name]
    own = [p for p in LAYERS.schema(layer).values() if p.name != "dropout"]
    shared = [_parameter("nonlocal_pool", "none", str), *own, *head_parameters(**HEAD)]
    ours = [_parameter("backbone", "r2plus1d_152", str), _parameter("backbone_options", None, dict[str, Any] | None)]
    of_clips = signature([*ours, *shared], **defaults)
    of_clips = of_clips.replace(parameters=[p for p in of_clips.parameters.values() if p.name != "feature_sizes"])
    of_maps = signature([_parameter("map_px", (1, 1), Sequence[int]), *shared], **defaults)
    of_maps = of_maps.replace(parameters=[_one_stream(p) for p in of_maps.parameters.values()])

    def parts(given: dict[str, Any], channels: int) -> tuple[NonLocalPooling, HeadOptions]:
        options = HeadOptions(**{f.name: given[f.name] for f in fields(HeadOptions)})
        pooling = {p.name: given[p.name] for p in own}
        return NonLocalPooling(channels, name, pooling, nonlocal_pool=given["nonlocal_pool"]), options

    def build(**given: Any) -> VideoModel:
        chosen = _complete(of_clips, given)
        backbone = MODELS.build(chosen["backbone"], num_labels=1, **(chosen["backbone_options"] or {}))
        pooling, options = parts(chosen, backbone.num_features)
        return NonLocalGating(backbone, pooling, chosen["num_labels"], options)

    def build_on_maps(**given: Any) -> VideoModel:
        chosen = _complete(of_maps, given)
        sizes, map_px = chosen["feature_sizes"], chosen["map_px"]
        pooling, options = parts(chosen, channels_of(sizes, map_px))
        return FramesNonLocalGating(sizes, map_px, pooling, chosen["num_labels"], options)

    build.__doc__ = f"Build NLG({name}) end to end on the backbone of this name (RippleAI, 2019)."
    build_on_maps.__doc__ = f"Build NLG({name}) on maps that were computed before (RippleAI, 2019)."
    build.__signature__ = of_clips  # type: ignore[attr-defined]
    build_on_maps.__signature__ = of_maps  # type: ignore[attr-defined]
    MODELS.register(f"nlg_{name}")(build)
    MODELS.register(f"frames_nlg_{name}")(build_on_maps)


def _complete(accepted: inspect.Signature, given: dict[str, Any]) -> dict[str, Any]:
    bound = accepted.bind(**given)
    bound.apply_defaults()
    return dict(bound.arguments)


for _name in POOLINGS:
    _register(_name)
