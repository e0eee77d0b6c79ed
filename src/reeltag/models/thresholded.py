"""A model with a second head that learns the score from which a label counts as present."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reeltag.losses.lsep import lsep_threshold
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import Kept, Loss, TrainsItself, training_loss

ThresholdKind = Literal["clip", "label"]
_HIDDEN = (100, 10)


class ThresholdedModel(VideoModel, TrainsItself):
    """Scores f of a ranking model, and thresholds: `f > threshold` is the decision.

    Paper: Li, Song, Luo. Improving Pairwise Ranking for Multi-label Image Classification, arXiv:1704.03135, section
    3.3; with LSEP in RippleAI's entry to Multi-Moments in Time 2019, section 2.4. In training mode the output is the
    scores, in evaluation mode f - threshold, so that a probability of 1/2 is the learned decision. No gradient of the
    thresholds reaches the network. A head with batch norm sees each batch twice: for scores, and for the features.
    Departure: the paper trains the thresholds once the scores are done; here both are trained together, which differs
    in nothing but that the thresholds follow scores that still move.

    Args:
        net: the model of the scores.
        kind: `clip`: thresholds from the pooled features by two hidden layers of 100 and 10 units, as in the paper;
            `label`: one number a label, which leaves each label's ranking of clips as it is.
        weight: of the thresholds' cross-entropy, a mean over labels, in the training loss.
    """

    def __init__(self, net: VideoModel, kind: ThresholdKind, weight: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.kind = kind
        self.weight = weight
        vars(self)["input_kind"] = net.input_kind  # of the class elsewhere; here it is the inner model's
        self.clip_shape = net.clip_shape
        self.num_features = net.num_features
        self._kept: Kept[Tensor] = Kept()
        self._draw_thresholds(net.num_labels)

    def _draw_thresholds(self, num_labels: int) -> None:
        self.num_labels = num_labels
        if self.kind == "label":
            self.thresholds: nn.Module = _LabelThresholds(num_labels)
            return
        widths = (self.num_features, *_HIDDEN)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.thresholds = nn.Sequential(*layers, nn.Linear(widths[-1], num_labels))

    @property
    def classifier(self) -> nn.Module:  # type: ignore[override]
        """The classifier of the inner model."""
        return self.net.classifier

    def blocks(self) -> Iterable[nn.Module]:
        """Return the blocks of the inner model."""
        return self.net.blocks()

    def forward(self, *inputs: Any) -> Tensor:
        """Return (B, L): the scores in training mode, else scores less thresholds."""
        return self.forward_head(self.forward_features(*inputs))

    def forward_features(self, *inputs: Any) -> Tensor:
        """Return the feature map of the inner model."""
        return self.net.forward_features(*inputs)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return what `forward` does, or the pooled (B, D) features with `pre_logits`."""
        if pre_logits:
            return self.net.forward_head(features, pre_logits=True)
        scores = self.net.forward_head(features)
        with torch.no_grad():
            pooled = self.net.forward_head(features, pre_logits=True)
        thresholds = self.thresholds(pooled).to(scores)
        if not self.training:
            return scores - thresholds
        self._kept.put(thresholds)
        return scores + 0 * thresholds  # wrappers for many devices follow the output to the parameters that are trained

    def training_loss(self, logits: Tensor, targets: Tensor, loss: Loss, *, ignore: Tensor | None = None) -> Tensor:
        """Return the loss of the scores plus `weight` times `lsep_threshold` of the thresholds."""
        learned = lsep_threshold(self._kept.take(), targets, scores=logits, ignore=ignore)
        return training_loss(self.net, logits, targets, loss, ignore=ignore) + self.weight * learned

    def example_input(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Return what the inner model takes."""
        return self.net.example_input(batch_size)

    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifier and the threshold head by fresh ones."""
        self.net.reset_classifier(num_labels)
        self._draw_thresholds(num_labels)

    def set_bias(self, logits: Tensor) -> None:
        """Set the bias of the inner model's classifier."""
        self.net.set_bias(logits)


class _LabelThresholds(nn.Module):
    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_labels))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.values.expand(len(pooled), -1)
