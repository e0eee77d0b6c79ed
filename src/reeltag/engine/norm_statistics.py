"""Batch norm statistics of fixed weights: over many batches, exact, in place of a running average."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def _alone(sums: Tensor) -> Tensor:
    return sums


@torch.no_grad()
def update_norm_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any],
    *,
    add_up: Callable[[Tensor], Tensor] = _alone,
) -> int:
    """Set the mean and variance of every batch norm to those of its inputs over all batches, and return their number.

    Each batch is normalised by its own statistics, as in training, and what a norm saw is pooled over all values:
    variance within batches and between them. Paper: Wu, Johnson. Rethinking "Batch" in BatchNorm, arXiv:2105.07576,
    section 3 ("PreciseBN"); SWA needs it at its end (arXiv:1803.05407, section 3.2). Departures: dropout is off, so
    that the statistics are those of evaluation; `torch.optim.swa_utils.update_bn` leaves it on and takes the mean of
    the batches' variances, which misses what batches differ by.

    Args:
        model: in training mode its norms that are frozen are in evaluation mode; these keep their statistics.
        batches: what `forward` takes; none leaves the statistics as they are.
        forward: runs the model on one batch.
        add_up: the sum of a tensor over processes, for statistics over all of them.
    """
    was_training = model.training
    model.train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None]
    seen = [_Seen(norm) for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
    count = 0
    try:
        for batch in batches if norms else ():
            forward(batch)
            count += 1
    finally:
        for one in seen:
            one.release()
        model.train(was_training)
    for one in seen:
        one.write(add_up)
    return count


class _Seen:
    """Number, sum and sum of squares of what one batch norm is given, by channel, in float64.

    With a momentum of 1 the norm itself leaves the mean and variance of each batch where they can be read.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm
        self.sums = torch.zeros(3, norm.num_features, dtype=torch.float64, device=_mean_of(norm).device)
        self._momentum = norm.momentum
        norm.momentum = 1.0
        self._hook = norm.register_forward_hook(self._look)

    def _look(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        mean, variance = _mean_of(self.norm).double(), _variance_of(self.norm).double()
        count = inputs[0].numel() // inputs[0].shape[1]
        self.sums += torch.stack(
            [torch.full_like(mean, count), count * mean, (count - 1) * variance + count * mean.square()]
        )

    def release(self) -> None:
        self._hook.remove()
        self.norm.momentum = self._momentum

    def write(self, add_up: Callable[[Tensor], Tensor]) -> None:
        count, total, squares = add_up(self.sums)
        if float(count[0]) < 2:
            return
        mean = total / count
        _mean_of(self.norm).copy_(mean)
        _variance_of(self.norm).copy_(((squares - count * mean.square()) / (count - 1)).clamp(min=0))


def _mean_of(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None  # norms without statistics are not looked at
    return norm.running_mean


def _variance_of(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm.running_var
