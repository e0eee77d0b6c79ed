"""A network with one hidden layer on feature vectors, several seeds at once: the same learner for every loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]

HIDDEN, BATCH, DROPOUT = 128, 128, 0.3


def train_nets(
    loss: Callable[[Tensor, Tensor], Tensor], x: Array, y: Array, *, lr: float, epochs: int, seeds: int
) -> Iterator[Callable[[Array], Array]]:
    """Train `seeds` networks side by side and yield, after each epoch, what scores features: (M, D) -> (seeds, M, L).

    D -> 128 -> L with ReLU and dropout 0.3, Adam, batches of 128. Logits of all networks go into the loss as one batch:
    a mean over clips, whose constant factor Adam does not see.

    Args:
        loss: from (logits, targets) to a scalar.
        x: (N, D) features; centred and scaled here.
        y: (N, L), 0 or 1.
        lr: learning rate; it falls by half a cosine.
        epochs: passes over the features.
        seeds: networks; each has its own first weights, order and dropped units.
    """
    generator = torch.Generator().manual_seed(0)
    center, spread = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1)

    def scaled(features: Array) -> Tensor:
        return torch.from_numpy(((features - center) / spread).astype(np.float32))

    inputs, targets = scaled(x), torch.from_numpy(y.astype(np.float32))
    prior = ((targets.sum(0) + 0.5) / (len(targets) - targets.sum(0) + 0.5)).log()
    sizes = [(inputs.shape[1], HIDDEN), (HIDDEN, targets.shape[1])]
    weights = [torch.randn(seeds, a, b, generator=generator) * (2 / a) ** 0.5 for a, b in sizes]
    weights[1] *= 0.1
    biases = [torch.zeros(seeds, 1, HIDDEN), prior.expand(seeds, 1, -1).clone()]
    parameters = [p.requires_grad_() for p in (*weights, *biases)]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    steps = -(-len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)

    def forward(batch: Tensor, keep: Tensor | None) -> Tensor:
        hidden = torch.relu(torch.baddbmm(biases[0], batch, weights[0]))  # (S, B, H)
        hidden = hidden if keep is None else hidden * keep / (1 - DROPOUT)
        return torch.baddbmm(biases[1], hidden, weights[1])  # (S, B, L)

    def score(features: Array) -> Array:
        with torch.no_grad():
            return forward(scaled(features).expand(seeds, -1, -1), None).numpy()

    for _ in range(epochs):
        order = torch.rand(seeds, len(inputs), generator=generator).argsort(1)  # (S, N)
        for rows in order.split(BATCH, dim=1):
            keep = (torch.rand(seeds, rows.shape[1], HIDDEN, generator=generator) > DROPOUT).float()
            value = loss(forward(inputs[rows], keep).flatten(0, 1), targets[rows].flatten(0, 1))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            schedule.step()
        yield score
