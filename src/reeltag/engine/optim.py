"""Optimisers and learning-rate schedules, as functions of the recipe and the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from reeltag.recipe import TrainSection


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices and kernels with weight decay, then norms, biases and single numbers without."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, train: TrainSection) -> Optimizer:
    """Return SGD or AdamW over the model's trainable parameters; the rate is set at every step by `set_rate`."""
    groups = parameter_groups(model, train.weight_decay)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas)


def rate_factor(epoch: float, train: TrainSection) -> float:
    """Return the learning rate at a moment of training, as a share of the base rate.

    Linear warm-up from 0 over `warmup_epochs`, then `constant`, `step` (times gamma at each milestone) or `cosine`:
    half a period from 1 down to 0 at the last epoch (Loshchilov, Hutter, arXiv:1608.03983, eq. 5, without restarts).

    Args:
        epoch: the moment, in epochs as a real number, 0 <= epoch <= train.epochs.
        train: the recipe's section.
    """
    if epoch < train.warmup_epochs:
        return epoch / train.warmup_epochs
    if train.schedule == "step":
        return train.gamma ** sum(epoch >= milestone for milestone in train.milestones)
    if train.schedule == "cosine":
        done = (epoch - train.warmup_epochs) / (train.epochs - train.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return 1.0


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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
