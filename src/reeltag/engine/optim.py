"""Optimisers and learning-rate schedules, as functions of the recipe and the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from reeltag.engine.groups import parameter_groups
from reeltag.sections import SwaSection, TrainSection


def build_optimizer(model: nn.Module, train: TrainSection) -> Optimizer:
    """Return SGD or AdamW over the model's trainable parameters; the rate is set at every step by `set_rate`."""
    groups = parameter_groups(model, train)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas)


def rate_factor(epoch: float, train: TrainSection) -> float:
    """Return the learning rate at a moment of training, as a share of the base rate.

    Linear warm-up from 0 over `warmup_epochs`, then one of

    - `constant`;
    - `step`: times gamma at each milestone;
    - `cosine`: half a period from 1 down to `min_lr` at the last epoch. It starts behind the warm-up, or at epoch 0
      with `warmup_overlaps`, as where a rate is given by 0.5 (cos(pi n / n_max) + 1) for every iteration n;
    - `restarts`: cosine cycles from 1 to `min_lr`; the first is `cycle_epochs` long, each next `cycle_growth` times the
      one before (Loshchilov, Hutter. SGDR, arXiv:1608.03983, eq. 5).

    From `swa.from_epoch` on, cycles take its place: 1 - t of `lr_high` and t of `lr_low`, t rising to 1 at the end of a
    cycle (Izmailov et al., arXiv:1803.05407, section 3.1).

    Args:
        epoch: the moment, in epochs as a real number, 0 <= epoch <= train.epochs. The moment at which one cycle ends
            and the next begins counts to the earlier one.
        train: the recipe's section.
    """
    if train.swa is not None and epoch > train.swa.from_epoch:
        done = _share_of_cycle(cycles_done(epoch, train.swa))
        return (1 - done) * train.swa.lr_high + done * train.swa.lr_low
    if epoch < train.warmup_epochs:
        return epoch / train.warmup_epochs
    if train.schedule == "step":
        return train.gamma ** sum(epoch >= milestone for milestone in train.milestones)
    begin = 0.0 if train.warmup_overlaps else train.warmup_epochs
    if train.schedule == "cosine":
        return _cosine((epoch - begin) / (train.epochs - begin), train.min_lr)
    if train.schedule == "restarts":
        return _cosine(_share_of_restart(epoch - begin, train), train.min_lr)
    return 1.0


def _cosine(done: float, low: float) -> float:
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _share_of_restart(epochs: float, train: TrainSection) -> float:
    length, begin = train.cycle_epochs or train.epochs, 0.0
    while epochs > begin + length * (1 + 1e-9):
        begin, length = begin + length, length * train.cycle_growth
    return (epochs - begin) / length


def cycles_done(epoch: float, swa: SwaSection) -> float:
    """Return how many cycles lie behind a moment, rounded so that the end of a cycle is a whole number."""
    return round((epoch - swa.from_epoch) / swa.cycle_epochs, 9)


def _share_of_cycle(cycles: float) -> float:
    return cycles - math.ceil(cycles) + 1


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group: `rate` times the group's own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def flatten_state(optimizer: Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return an optimiser's state as named tensors and as the rest that JSON holds."""
    tensors, rest = {}, {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                rest[f"{index}.{key}"] = value
    return tensors, rest


def restore_state(optimizer: Optimizer, tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
    """Put back what `flatten_state` returned."""
    content = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    pairs: Iterable[tuple[str, Any]] = [*tensors.items(), *rest.items()]
    for name, value in pairs:
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    content["state"] = state
    optimizer.load_state_dict(content)
