"""What stands behind pooled features: a fully connected layer, a gate, and experts or logistic regression."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers.experts import MixtureOfExperts, ScoreGate
from reeltag.layers.frames import FrameBatchNorm, widen
from reeltag.layers.gating import GLU, ContextGating
from reeltag.layers.squeeze_gate import SqueezeGate

Gating = Literal["none", "cg", "glu", "se"]
Activation = Literal["none", "relu", "relu6"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": F.relu, "relu6": F.relu6}


@dataclass(frozen=True)
class HeadOptions:
    """What stands between the pooled vector and the logits, in the order of the data's way.

    Attributes:
        pool_dropout: probability on the pooled vector, in [0, 1).
        fc: width of the fully connected layer; None leaves it out.
        fc_norm: batch norm behind it in place of a bias.
        fc_activation: of the layer.
        gating: of its values: context gating (`cg`), `glu`, squeeze and excitation (`se`) or `none`.
        gating_reduction: of `se`.
        remove_diagonal: of context gating, before the experts and after them.
        dropout: probability on the gated values, in [0, 1).
        experts: M per label of the mixture; 0 is logistic regression.
        gate_rank: rank of the experts' gates; None = full.
        score_gating: a context gate over the experts' scores, computed from the `scores` or from their `input`.
    """

    pool_dropout: float = 0.0
    fc: int | None = 1024
    fc_norm: bool = False
    fc_activation: Activation = "none"
    gating: Gating = "none"
    gating_reduction: int = 8
    remove_diagonal: bool = False
    dropout: float = 0.0
    experts: int = 2
    gate_rank: int | None = None
    score_gating: ScoreGate = "none"

    def __post_init__(self) -> None:
        for name in ("pool_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability in [0, 1), got {getattr(self, name)}")
        if self.gating not in ("none", "cg", "glu", "se") or self.fc_activation not in _ACTIVATIONS:
            raise ValueError(
                f"gating is none, cg, glu or se and fc_activation none, relu or relu6; "
                f"got {self.gating!r} and {self.fc_activation!r}"
            )
        if self.experts < 0 or (not self.experts and self.score_gating != "none"):
            raise ValueError(
                f"score_gating={self.score_gating!r} gates the scores of experts, and experts is {self.experts}; "
                "set experts to 1 or more, or score_gating to none"
            )


def head_parameters(**defaults: Any) -> list[inspect.Parameter]:
    """Return `HeadOptions` as keyword parameters of a model's builder, with some defaults of the model's own."""
    own = HeadOptions(**defaults)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, kind, default=getattr(own, f.name), annotation=f.type) for f in fields(own)]


class FeatureHead(nn.Module):
    """Pooled features to the classifier's input: dropout, fully connected layer, gate, dropout.

    Paper: Miech, Laptev, Sivic. Learnable pooling with Context Gating for video classification. arXiv:1706.06905,
    figure 1.

    Args:
        in_features: width of the pooled vector.
        options: see `HeadOptions`.
        fc_std: deviation of the fully connected layer's first weights; None = PyTorch's. Descriptors of norm 1 need it
            larger than their width suggests: the published code takes 1 / sqrt(clusters).
    """

    def __init__(self, in_features: int, options: HeadOptions, *, fc_std: float | None = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = width = options.fc or in_features
        self.activation = _ACTIVATIONS[options.fc_activation]
        self.pool_dropout, self.dropout = nn.Dropout(options.pool_dropout), nn.Dropout(options.dropout)
        self.fc: nn.Linear | None = None
        self.fc_norm: FrameBatchNorm | None = None
        if options.fc is not None:
            self.fc = nn.Linear(in_features, options.fc, bias=not options.fc_norm)
            self.fc_norm = FrameBatchNorm(options.fc) if options.fc_norm else None
            if fc_std is not None:
                nn.init.normal_(self.fc.weight, std=fc_std)
        self.gate: nn.Module | None = None
        if options.gating == "cg":
            self.gate = ContextGating(width, remove_diagonal=options.remove_diagonal)
        elif options.gating == "glu":
            self.gate = GLU(width)
        elif options.gating == "se":
            self.gate = SqueezeGate(width, reduction=options.gating_reduction)

    def forward(self, pooled: Tensor) -> Tensor:
        """Turn (B, in_features) into (B, out_features) in float32."""
        x = self.pool_dropout(pooled)
        if self.fc is not None:
            x = widen(self.fc(x))
            x = self.activation(x if self.fc_norm is None else self.fc_norm(x))
        return widen(self.dropout(x if self.gate is None else self.gate(x)))


def build_classifier(num_features: int, num_labels: int, options: HeadOptions) -> nn.Linear | MixtureOfExperts:
    """Return a freshly drawn logistic regression, or mixture of experts, from (B, num_features) to logits (B, L)."""
    if num_labels < 1:
        raise ValueError(f"num_labels must be at least 1, got {num_labels}")
    if not options.experts:
        return nn.Linear(num_features, num_labels)
    return MixtureOfExperts(
        num_features,
        num_labels,
        options.experts,
        gate_rank=options.gate_rank,
        score_gate=options.score_gating,
        remove_diagonal=options.remove_diagonal and options.score_gating == "scores",
    )


def set_classifier_bias(classifier: nn.Module, logits: Tensor) -> None:
    """Set the biases of `build_classifier`'s so that an input of zeros scores about sigmoid((L,) logits).

    A mixture starts with even gates, so its M experts share M / (M + 1) of the score, and half of that under a gate
    over the scores: each expert's own score is larger by the inverse, at most 0.99.
    """
    with torch.no_grad():
        if isinstance(classifier, MixtureOfExperts):
            count = classifier.num_experts
            factor = (count + 1) / count * (1 if classifier.score_gate is None else 2)
            scores = (logits.double().sigmoid() * factor).clamp(max=0.99)
            classifier.experts.bias.copy_(scores.logit().repeat_interleave(count))
        elif isinstance(classifier, nn.Linear):
            classifier.bias.copy_(logits)


def unit_norm_std(num_clusters: int) -> float:
    """Return the published deviation of first weights behind a descriptor of norm 1 over `num_clusters` clusters."""
    return 1 / math.sqrt(num_clusters)
