"""What every video model offers: features, head, a new classifier, and what kind of input it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from reeltag.schema import InputKind


class VideoModel(nn.Module, ABC):
    """A model from a clip to label logits.

    Attributes:
        input_kind: what `forward` takes (contract: rgb and flow are clips (B, T, C, H, W)).
        num_labels: L.
        num_features: D, the width of the vector before the classifier.
    """

    input_kind: ClassVar[InputKind] = "rgb"
    num_labels: int
    num_features: int

    @abstractmethod
    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the feature map before pooling."""

    @abstractmethod
    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the pooled (B, D) features with `pre_logits`."""

    @abstractmethod
    def reset_classifier(self, num_labels: int) -> None:
        """Replace the classifier by a freshly drawn one for `num_labels` labels."""

    @abstractmethod
    def set_bias(self, logits: Tensor) -> None:
        """Set the classifier's bias to (L,) logits, usually the log odds of the label frequencies."""

    def forward(self, clip: Tensor) -> Tensor:
        """Return (B, L) logits of a clip; uint8 is normalised inside, a float clip is taken as normalised."""
        return self.forward_head(self.forward_features(clip))
