"""Models on frame features: each stream is normalised and pooled over time, and one head scores the joined vector."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.dbof import GatedDBoW, SoftDBoW
from reeltag.layers.frames import FrameBatchNorm, FramePooling
from reeltag.layers.netfv import NetFV
from reeltag.layers.netvlad import NetRVLAD
from reeltag.models import MODELS
from reeltag.models.feature_head import FeatureHead, HeadOptions, head_parameters, unit_norm_std
from reeltag.models.interface import VideoModel
from reeltag.schema import InputKind

YOUTUBE8M_SIZES = (1024, 128)  # Inception frames and VGGish sound, side by side
PER_STREAM = ("num_clusters", "groups")  # options of a pooling that may be given per stream
NOT_OURS = ("map_px", "dropout")  # vectors are no maps, and `dropout` is the head's


class FrameSet(VideoModel):
    """Input batch norm, a pooling over time per stream, their outputs side by side, and a `FeatureHead`.

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating for video classification. arXiv:1706.06905,
    figure 1: with two streams it is the winning entry of YouTube-8M 2017.

    Args:
        feature_sizes: width of each stream; the streams stand side by side in the last axis of the features.
        num_labels: L.
        poolings: one per stream, or a single one that reads all streams as one.
        input_norm: batch norm of every feature over the real frames, before pooling.
        head: see `HeadOptions`.
        fc_std: see `FeatureHead`.

    Raises:
        ValueError: the number of poolings fits neither one nor the streams, or a pooling gives a vector per frame.
    """

    input_kind: ClassVar[InputKind] = "features"

    def __init__(
        self,
        feature_sizes: Sequence[int],
        num_labels: int,
        poolings: Sequence[FramePooling],
        *,
        input_norm: bool,
        head: HeadOptions,
        fc_std: float | None = None,
    ) -> None:
        super().__init__()
        if len(poolings) not in (1, len(feature_sizes)):
            raise ValueError(f"{len(feature_sizes)} streams take one pooling or one each, got {len(poolings)}")
        if any(getattr(pooling, "output", None) == "all" for pooling in poolings):
            raise ValueError("output='all' gives a vector per frame, and a clip needs one: choose 'last' or 'state'")
        self.feature_sizes = tuple(feature_sizes)
        self.input_norm = FrameBatchNorm(sum(feature_sizes)) if input_norm else None
        self.poolings = nn.ModuleList(poolings)
        self.head = FeatureHead(sum(pool.out_features for pool in poolings), num_labels, head, fc_std=fc_std)
        self.num_features, self.num_labels = self.head.num_features, num_labels

    def streams(self, features: Tensor) -> list[Tensor]:
        """Cut (B, T, D) features into what each pooling reads."""
        return [features] if len(self.poolings) == 1 else list(features.split(self.feature_sizes, dim=-1))

    def forward_features(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool features (B, T, D) with mask (B, T) to the joined descriptor before the head."""
        check_features(features, self.feature_sizes)
        if self.input_norm is not None:
            features = self.input_norm(features, mask)
        parts = [pool(x, mask) for pool, x in zip(self.poolings, self.streams(features), strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits of the joined descriptor, or the gated values (B, num_features) with `pre_logits`."""
        return cast(Tensor, self.head(features, pre_logits=pre_logits))

    def forward(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, L) logits of features (B, T, D); `mask` is (B, T) bool, True = real frame, None = all are."""
        return self.forward_head(self.forward_features(clip, mask))

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the experts or the logistic regression."""
        self.head.reset_classifier(num_labels)
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the classifier's bias so that an input of zeros scores about sigmoid((L,) logits)."""
        self.head.set_bias(logits)


def check_features(features: Tensor, feature_sizes: Sequence[int]) -> None:
    """Raise ValueError unless features are (B, T, D) with the D of the streams together."""
    if features.ndim != 3 or features.shape[-1] != sum(feature_sizes):
        raise ValueError(
            f"features are (B, T, {sum(feature_sizes)}) for streams of {tuple(feature_sizes)}, "
            f"got {tuple(features.shape)}; set model.feature_sizes to the widths of your features"
        )


def stream_poolings(
    layer: str, feature_sizes: Sequence[int], options: dict[str, Any], *, others: str | None = None, join: bool = False
) -> list[FramePooling]:
    """Build the poolings of a model's streams.

    Args:
        layer: the registered pooling of the first stream.
        feature_sizes: width of each stream.
        options: of the layer; `num_clusters` and `groups` may be a list with one value a stream.
        others: the pooling of the other streams, which gets `num_clusters` and `batch_norm`; None = the same.
        join: one pooling over all streams.

    Raises:
        ValueError: no stream, a list with another length than that of the streams, an option of the layer out of range.
    """
    sizes = [sum(feature_sizes)] if join else list(feature_sizes)
    if not feature_sizes or min(feature_sizes) < 1:
        raise ValueError(f"feature_sizes holds the width of each stream, at least one, got {tuple(feature_sizes)}")
    poolings = []
    for index, size in enumerate(sizes):
        own = dict(options)
        for key in PER_STREAM:
            if isinstance(own.get(key), list | tuple):
                if len(own[key]) != len(sizes):
                    raise ValueError(f"{key} is one number or one per stream; got {own[key]} for {len(sizes)} streams")
                own[key] = own[key][index]
        name = layer if others is None or index == 0 else others
        known = LAYERS.schema(name)
        poolings.append(LAYERS.build(name, dim=size, **{key: own[key] for key in own if key in known}))
    return cast("list[FramePooling]", poolings)


def first_std(pooling: FramePooling) -> float | None:
    """Return the deviation of the first weights behind a pooling: published for descriptors of norm 1, else None."""
    if isinstance(pooling, NetRVLAD | NetFV | SoftDBoW | GatedDBoW):
        return unit_norm_std(pooling.assign.linear.out_features)
    return None


def signature(*groups: Sequence[inspect.Parameter], **defaults: Any) -> inspect.Signature:
    """Return the signature of a builder of models: labels and streams, then groups of options; later names win nothing.

    Args:
        groups: keyword parameters with defaults.
        defaults: what replaces a parameter's default.

    Raises:
        ValueError: two groups have an option of one name, or a default names none.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    fixed = [
        inspect.Parameter("num_labels", kind, annotation=int),
        inspect.Parameter("feature_sizes", kind, default=YOUTUBE8M_SIZES, annotation=Sequence[int]),
    ]
    options = {p.name: p.replace(kind=kind) for group in groups for p in group}
    if len(options) != sum(map(len, groups)) or not set(defaults) <= set(options):
        raise ValueError(f"options {[[p.name for p in group] for group in groups]} clash or lack one of {defaults}")
    chosen = [p.replace(default=defaults.get(name, p.default)) for name, p in options.items()]
    return inspect.Signature([*fixed, *chosen], return_annotation=VideoModel)


def register(name: str, layer: str, *, others: str | None = None, join: bool = False, **defaults: Any) -> None:
    """Register `frames_<name>`: a `FrameSet` with one pooling, whose options are the layer's and the head's.

    Args:
        name: the rest of the model's name.
        layer: the registered pooling.
        others: another pooling for the streams behind the first.
        join: let one pooling read all streams as one.
        defaults: of options, where they are not those of the layer and of `HeadOptions`.
    """
    own = [p for p in LAYERS.schema(layer).values() if p.name not in NOT_OURS]
    head = {f.name for f in fields(HeadOptions)}
    norm = inspect.Parameter("input_norm", inspect.Parameter.KEYWORD_ONLY, default=True, annotation=bool)
    accepted = signature([norm], own, head_parameters(), **defaults)

    def build(**given: Any) -> VideoModel:
        bound = accepted.bind(**given)
        bound.apply_defaults()
        options = dict(bound.arguments)
        num_labels, sizes = options.pop("num_labels"), options.pop("feature_sizes")
        input_norm = options.pop("input_norm")
        chosen = HeadOptions(**{key: options.pop(key) for key in head})
        poolings = stream_poolings(layer, sizes, options, others=others, join=join)
        std = first_std(poolings[0])
        return FrameSet(sizes, num_labels, poolings, input_norm=input_norm, head=chosen, fc_std=std)

    build.__doc__ = f"Build a set of frames pooled by `{layer}`; options are those of the layer and of `HeadOptions`."
    build.__signature__ = accepted  # type: ignore[attr-defined]
    cast(Callable[..., Any], MODELS.register(f"frames_{name}")(build))


_PLAIN: dict[str, Any] = {"input_norm": False, "fc": None}
_RECURRENT: dict[str, Any] = {**_PLAIN, "output": "state", "num_layers": 2, "hidden": 1024}

register("mean", "mean_pool", **_PLAIN, experts=0)
register("moe", "mean_pool", **_PLAIN, score_gating="scores")
register("max", "max_pool", **_PLAIN)
register("attention", "attention_pool", **_PLAIN)
register("probe", "attentive_probe", **_PLAIN)
register("dbof", "dbof", fc_norm=True, fc_activation="relu6")
register("dbow", "soft_dbow")
register("gated_dbow", "gated_dbow", others="soft_dbow")
register("netfv", "netfv")
register("netvlad", "netvlad")
register("netrvlad", "netrvlad")
register("netvlagd", "netvlagd")
register("nextvlad", "nextvlad", input_norm=False, pool_dropout=0.5, fc=2048, fc_norm=True, gating="se", experts=0)
register("lstm", "lstm", join=True, **_RECURRENT)
register("blstm", "blstm", join=True, **_RECURRENT)
register("gru", "gru", join=True, **_RECURRENT)
for _snippets in ("conv", "late", "slow", "local", "time_conv"):
    register(_snippets, f"{_snippets}_pooling", join=True, **_PLAIN, experts=0)
