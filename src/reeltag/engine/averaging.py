"""Averages of a model's weights over training: exponential (EMA), and at the ends of cycles (SWA)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reeltag.engine.optim import cycles_done
from reeltag.sections import EmaSection, SwaSection, TrainSection

Weights = dict[str, Tensor]


def ema_share(count: int, ema: EmaSection) -> float:
    """Return the share of the newest weights in the average: 1 - decay; 1 for the first.

    With `warmup` the decay of update n is at most n / (n + 9), so that early weights, which are poor, are soon
    forgotten (as in TensorFlow's ExponentialMovingAverage).
    """
    if count == 0:
        return 1.0
    return 1 - (min(ema.decay, count / (count + 9)) if ema.warmup else ema.decay)


def ends_cycle(step: int, num_batches: int, swa: SwaSection) -> bool:
    """Return whether step number `step` (from 1) is the last one of a cycle, where the learning rate is lowest."""
    now, then = (math.ceil(cycles_done(number / num_batches, swa)) for number in (step, step + 1))
    return 1 <= now < then


class Averaging:
    """The running average that a recipe asks for, and when evaluation reads it in place of the weights.

    EMA (Polyak, Juditsky 1992) takes in the weights after every step and is evaluated from the first one on. SWA
    (Izmailov et al. Averaging Weights Leads to Wider Optima, arXiv:1803.05407, algorithm 1) takes in the weights at the
    end of each cycle, every one with the same share; it is evaluated once training is over and the statistics of its
    batch norms were computed anew, since no average of statistics fits averaged weights.

    Everything of floating type in the state dict is averaged, running statistics too; counters are the weights' own.

    Args:
        train: the recipe's section; without `ema` and `swa` nothing is ever averaged.
        num_batches: steps an epoch.
    """

    def __init__(self, train: TrainSection, num_batches: int) -> None:
        self.ema, self.swa = train.ema, train.swa
        self.num_batches = num_batches
        self.average: Weights = {}
        self.count = 0
        self.final = False

    @property
    def in_use(self) -> bool:
        """Whether evaluation reads the average."""
        return self.count > 0 and (self.ema is not None or self.final)

    @property
    def to_finish(self) -> bool:
        """Whether there is an average whose batch norms still have to be computed."""
        return self.swa is not None and self.count > 0 and not self.final

    def after_step(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number `step`, if it is time."""
        if self.ema is not None:
            self._add(model, ema_share(self.count, self.ema))
        elif self.swa is not None and ends_cycle(step, self.num_batches, self.swa):
            self._add(model, 1 / (self.count + 1))

    @torch.no_grad()
    def _add(self, model: nn.Module, share: float) -> None:
        weights = _floating(model)
        if not self.average:
            self.average = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            for name, tensor in self.average.items():
                tensor.lerp_(weights[name], share)
        self.count += 1

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Put the average into the model, and its own weights back afterwards, bit for bit."""
        own = {name: tensor.detach().clone() for name, tensor in _floating(model).items()}
        _load(model, self.average)
        try:
            yield
        finally:
            _load(model, own)

    @contextmanager
    def for_evaluation(self, model: nn.Module) -> Iterator[None]:
        """As `swapped_in`, where evaluation reads the average; else nothing changes."""
        if not self.in_use:
            yield
            return
        with self.swapped_in(model):
            yield

    def take_statistics(self, model: nn.Module, *, final: bool = False) -> None:
        """Keep the buffers that the model has now, while the average is in it; `final` ends SWA."""
        for name, buffer in model.named_buffers():
            if name in self.average:
                self.average[name].copy_(buffer)
        self.final = self.final or final

    def checkpoint(self, model: nn.Module) -> dict[str, Weights]:
        """Return the groups of a checkpoint: `model` is what evaluation reads.

        `training` is there when that is the average, and holds the weights that training goes on from; `average` is
        there when the average exists and is not yet read.
        """
        weights: Weights = model.state_dict()
        if self.in_use:
            return {"model": {**weights, **self.average}, "training": weights}
        return {"model": weights, "average": self.average} if self.count else {"model": weights}

    @property
    def state(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {"count": self.count, "final": self.final}

    def restore(self, model: nn.Module, tensors: dict[str, Weights], state: dict[str, Any]) -> None:
        """Put back the model's weights and the average from what `checkpoint` and `state` returned."""
        model.load_state_dict(tensors.get("training", tensors["model"]))
        self.count, self.final = state["count"], state["final"]
        if self.count:
            saved = tensors.get("average", tensors["model"])
            self.average = {name: saved[name].to(own, copy=True) for name, own in _floating(model).items()}


def _floating(model: nn.Module) -> Weights:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@torch.no_grad()
def _load(model: nn.Module, weights: Weights) -> None:
    for name, tensor in model.state_dict().items():
        if name in weights:
            tensor.copy_(weights[name])
