"""Models on frame features: each stream is normalised and pooled over time, and one head scores the joined vector."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, cast

from torch import Tensor

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
from reeltag.models.feature_model import YOUTUBE8M_SIZES, FeatureModel
from reeltag.models.interface import VideoModel
from reeltag.models.stream_pooling import StreamPooling, first_std, stream_poolings

NOT_OURS = ("dropout",)  # of a pooling: `dropout` is the head's


class FrameSet(FeatureModel):
    """A pooling over time per stream, a fully connected layer, gates, and experts or logistic regression.

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating for video classification. arXiv:1706.06905,
    figure 1: with two streams it is the winning entry of YouTube-8M 2017.

    Args:
        pooling: features to a descriptor, see `StreamPooling`.
        num_labels: L.
        options: of the head, see `HeadOptions`.
        fc_std: see `FeatureHead`.
    """

    def __init__(
        self, pooling: StreamPooling, num_labels: int, options: HeadOptions, *, fc_std: float | None = None
    ) -> None:
        super().__init__()
        self.feature_sizes, self.options = pooling.feature_sizes, options
        self.pooling = pooling
        self.head = FeatureHead(pooling.out_features, options, fc_std=fc_std)
        self.num_features = self.head.out_features
        self.reset_classifier(num_labels)

    def forward_features(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool features (B, T, D) with mask (B, T) to the joined descriptor before the head."""
        return cast(Tensor, self.pooling(clip, mask))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits of the joined descriptor, or the gated values (B, num_features) with `pre_logits`."""
        values = self.head(features)
        return values if pre_logits else widen(self.classifier(values))

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the experts or the logistic regression by freshly drawn ones."""
        self.classifier = build_classifier(self.num_features, num_labels, self.options)
        self.num_labels = num_labels

    def set_bias(self, logits: Tensor) -> None:
        """Set the classifier's bias so that an input of zeros scores about sigmoid((L,) logits)."""
        set_classifier_bias(self.classifier, logits)


def signature(*groups: Sequence[inspect.Parameter], **defaults: Any) -> inspect.Signature:
    """Return the signature of a builder of models: labels and streams, then groups of options.

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
        return FrameSet(StreamPooling(sizes, poolings, input_norm=input_norm), num_labels, chosen, fc_std=std)

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
