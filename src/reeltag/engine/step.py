"""One optimiser step: forward and backward in parts, the guard against numbers that are not finite, the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reeltag.sections import TrainSection

Batch = dict[str, Any]
Forward = Callable[[Batch], tuple[Tensor, float]]
Split = Callable[[Batch, int], Iterable[tuple[Batch, float]]]


@dataclass(frozen=True)
class Update:
    """What one step did.

    Attributes:
        loss: of the batch; NaN or infinite when it was.
        skipped: why the weights were left as they are (`the loss became nan`), or None.
    """

    loss: float
    skipped: str | None = None


def _backward(loss: Tensor) -> None:
    torch.autograd.backward(loss)


def _alone(found: bool) -> bool:
    return found


class Stepper:
    """Makes optimiser steps out of batches.

    With `train.accumulate` = n a batch goes through the model in n parts, one after the other, whose gradients add up:
    the memory of a part, the step of the whole. Each part counts by its share of the clips, so the step is that of the
    whole batch for every loss that is a mean over clips, in a model whose clips do not see each other. Batch norm sees
    parts; a mean over known pairs (`ignore`) or over present labels (`wlsep`) still weighs parts by their clips.

    When the loss or the norm of the gradient is not finite, no weight, no optimiser state and no buffer changes.

    Args:
        model: as the optimiser knows it.
        optimizer: of the model's trainable parameters.
        train: the recipe's section.
        forward: from a batch to the loss to go backward from, and its value.
        backward: from the loss to gradients.
        clip: clips the gradients of parameters to a norm and returns what it was.
        no_sync: the context of a part whose gradients need not be exchanged yet.
        agree: whether a finding holds in any process.
        split: from a batch and the number of parts to the parts, each with its share of the clips.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        train: TrainSection,
        forward: Forward,
        *,
        backward: Callable[[Tensor], None] = _backward,
        clip: Callable[[Sequence[Tensor], float], Any] = nn.utils.clip_grad_norm_,
        no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
        agree: Callable[[bool], bool] = _alone,
        split: Split | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.buffers = list(model.buffers())
        self.parts = train.accumulate
        self.max_norm = train.clip_norm or math.inf  # with no limit the norm is still what tells a bad gradient
        self.forward, self.backward, self.clip, self.no_sync, self.agree = forward, backward, clip, no_sync, agree
        self.split = split or shares_of

    def __call__(self, batch: Batch) -> Update:
        """Make one step from a batch of at least one clip."""
        before = [buffer.clone() for buffer in self.buffers]
        value = 0.0
        parts = list(self.split(batch, self.parts))
        for number, (part, share) in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self.no_sync():
                loss, part_value = self.forward(part)
                self.backward(loss * share)
            value += share * part_value
        norm = float(self.clip(self.parameters, self.max_norm))
        finite = math.isfinite(value) and math.isfinite(norm)
        if self.agree(not finite):
            with torch.no_grad():
                for buffer, kept in zip(self.buffers, before, strict=True):
                    buffer.copy_(kept)
            self.optimizer.zero_grad(set_to_none=True)
            what = f"the loss became {value}" if not math.isfinite(value) else f"the gradient's norm became {norm}"
            return Update(value, what if not finite else "another process found a loss that is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Update(value)


def parts_of(batch: Batch, count: int) -> Iterator[Batch]:
    """Yield a batch in `count` parts of almost equal size, in order, fewer when it has fewer clips."""
    total = len(batch["rows"])
    count = min(count, total)
    if count <= 1:
        yield batch
        return
    for number in range(count):
        first, last = total * number // count, total * (number + 1) // count
        yield cut(batch, first, last)


def shares_of(batch: Batch, count: int) -> Iterator[tuple[Batch, float]]:
    """Yield what `parts_of` does, each part with its share of the clips."""
    total = len(batch["rows"])
    for part in parts_of(batch, count):
        yield part, len(part["rows"]) / total


def cut(batch: Batch, first: int, last: int) -> Batch:
    """Return the clips `first` to `last - 1` of a batch; what is no tensor stays as it is."""
    return {name: value[first:last] if isinstance(value, Tensor) else value for name, value in batch.items()}
