"""A loss of scores together with that of the thresholds which are learned beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from reeltag.losses.lsep import lsep_threshold


@dataclass(frozen=True)
class WithThresholds:
    """The loss of the scores plus `weight` times `lsep_threshold` of the thresholds.

    Paper: RippleAI, Multi-Moments in Time 2019, section 2.4, after arXiv:1704.03135, section 3.3. No gradient of the
    second term reaches the scores. Departure: the paper trains the thresholds once the scores are done; here both are
    trained together, which differs in nothing but that the thresholds follow scores that still move.

    Attributes:
        loss: of the scores, from (scores, targets, ignore=).
        weight: of the thresholds' cross-entropy, a mean over labels.
    """

    loss: Callable[..., Tensor]
    weight: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor, *, ignore: Tensor | None = None) -> Tensor:
        """Return the sum of both losses.

        Args:
            outputs: (B, 2 L), the scores, then the thresholds.
            targets: (B, L).
            ignore: (B, L), true where the truth is unknown.
        """
        scores, thresholds = outputs.chunk(2, dim=1)
        learned = lsep_threshold(thresholds, targets, scores=scores, ignore=ignore)
        return self.loss(scores, targets, ignore=ignore) + self.weight * learned
