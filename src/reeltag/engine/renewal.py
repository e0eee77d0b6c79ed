"""When the batch norms of a run are computed anew: before a validation, and at the end of SWA."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from reeltag.engine.averaging import Averaging
from reeltag.engine.norm_statistics import update_norm_statistics


class NormRenewal:
    """Computes the statistics of batch norms anew for the weights that evaluation reads.

    Args:
        averaging: what may be in use in place of the weights.
        batches: yields the first k training batches of the coming epoch, or all for None.
        forward: runs the model on one batch.
        add_up: the sum of a tensor over processes.
    """

    def __init__(
        self,
        averaging: Averaging,
        batches: Callable[[int | None], Iterable[Any]],
        forward: Callable[[Any], Any],
        add_up: Callable[[Tensor], Tensor],
    ) -> None:
        self.averaging, self.batches, self.forward, self.add_up = averaging, batches, forward, add_up

    def before_validation(self, model: nn.Module, num_batches: int) -> None:
        """Renew the norms of the weights, or of the average where that is evaluated; a finished one is left alone."""
        if self.averaging.final:
            return
        with self.averaging.for_evaluation(model):
            update_norm_statistics(model, self.batches(num_batches), self.forward, add_up=self.add_up)
            if self.averaging.in_use:
                self.averaging.take_statistics(model)

    def finish(self, model: nn.Module, num_batches: int | None) -> None:
        """Compute the norms of SWA's average, which is what is evaluated from here on."""
        with self.averaging.swapped_in(model):
            update_norm_statistics(model, self.batches(num_batches), self.forward, add_up=self.add_up)
            self.averaging.take_statistics(model, final=True)
