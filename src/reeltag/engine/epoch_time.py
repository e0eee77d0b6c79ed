"""How long an epoch will take on this machine: a few real batches, read and trained on as training does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor

from reeltag.build import Parts, build_parts
from reeltag.data.dataset import make_loader
from reeltag.data.example_order import EpochOrder
from reeltag.data.footage import Footage
from reeltag.engine.optim import build_optimizer
from reeltag.engine.protocol import prepare_model
from reeltag.engine.step import Stepper
from reeltag.errors import TooManyBadFiles
from reeltag.hardware import default_workers, resolve_device, resolve_precision
from reeltag.models.scoring import model_inputs
from reeltag.models.training_loss import training_loss
from reeltag.recipe import Recipe

Use = Callable[[dict[str, Any]], None]
LEAST_BATCHES = 3


@dataclass(frozen=True)
class EpochTime:
    """Seconds, measured on `measured` batches.

    Attributes:
        start_s: from asking for an epoch to its first batch.
        read_s: a batch from the loader alone.
        step_s: an optimiser step alone, on a batch that lies there.
        both_s: a batch and its step, with the loader at work meanwhile.
        num_batches: batches of an epoch.
        measured: batches behind `both_s`.
        workers: loader processes.
    """

    start_s: float
    read_s: float
    step_s: float
    both_s: float
    num_batches: int
    measured: int
    workers: int

    @property
    def epoch_s(self) -> float:
        """The prediction: training steps of one epoch, without validation and checkpoints."""
        return self.start_s + self.num_batches * self.both_s

    @property
    def waits(self) -> float:
        """The share of an epoch in which the model waits for clips, in [0, 1]."""
        return max(0.0, 1 - self.step_s / self.both_s)


def measure_epoch(
    recipe: Recipe,
    footage: Footage,
    *,
    device: str = "auto",
    workers: int | None = None,
    batches: int = 16,
    limit_s: float = 60.0,
) -> EpochTime:
    """Read and train on the first batches of the recipe's order, and say what an epoch takes.

    The weights are those of a fresh model and are thrown away. What the loader has read ahead when the first batch
    comes is passed over before the clock starts, or reading would look faster than it is. A second visit of a file may
    find it in the system's cache: the clock runs over batches that were not read before, where there are as many.

    Args:
        recipe: the recipe.
        footage: the manifest's files or packed shards, with a training split.
        device: where to train.
        workers: loader processes; None chooses as training does.
        batches: how many to measure; fewer in a short epoch.
        limit_s: of each of the three measurements; when it is over, what was measured so far counts.

    Raises:
        TooManyBadFiles: no batch could be read.
    """
    target = resolve_device(device)
    parts = build_parts(recipe, footage)
    workers = default_workers(target, footage.packed) if workers is None else workers
    order = EpochOrder(parts.train_rows, recipe.train.batch_size, seed=recipe.train.seed, weights=parts.weights)
    # When the first batch comes, each worker has one ready or nearly so.
    ahead = min(workers, max(0, order.num_batches - LEAST_BATCHES))
    count = min(batches, order.num_batches - ahead)

    def read_from(first: int) -> Iterator[dict[str, Any]]:
        order.set_position(0, first)
        return iter(make_loader(parts.training, order, workers=workers, seed=recipe.train.seed))

    def pace(batches: Iterator[dict[str, Any]], use: Use) -> tuple[float, int]:
        for batch in islice(batches, ahead):
            use(batch)
        return _pace(islice(batches, count), use, limit_s)

    asked = time.perf_counter()
    kept = next((batch for batch in read_from(0) if len(batch["rows"])), None)
    start_s = time.perf_counter() - asked
    if kept is None:
        raise TooManyBadFiles("no batch of the training split could be read; run `reeltag data check MANIFEST`")
    step = _stepper(parts, target, bf16=resolve_precision(recipe.train.precision, device) == "bf16")
    step(kept)  # chooses kernels and makes the optimiser's state
    step_s, _ = _pace(repeat(kept, count), step, limit_s)
    read_s, _ = pace(read_from(0), lambda batch: None)
    seen = ahead + count
    both_s, measured = pace(read_from(seen if order.num_batches >= 2 * seen else 0), step)
    return EpochTime(max(0.0, start_s - read_s), read_s, step_s, both_s, order.num_batches, measured, workers)


def _pace(batches: Iterable[dict[str, Any]], use: Use, limit_s: float) -> tuple[float, int]:
    """Return the seconds in which a batch comes and is used, and over how many that was seen."""
    done, started = 0, time.perf_counter()
    for batch in batches:
        use(batch)
        done += 1
        if done >= LEAST_BATCHES and time.perf_counter() - started > limit_s:
            break
    return (time.perf_counter() - started) / max(done, 1), done


def _stepper(parts: Parts, device: torch.device, *, bf16: bool) -> Use:
    """Return what trains on a batch, as the loop does."""
    train = parts.recipe.train
    model = prepare_model(parts.model, train, device=device.type).to(device).train()

    def loss_of(batch: dict[str, Any]) -> tuple[Tensor, float]:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(*model_inputs(model, batch, device))
        ignore = batch["ignore"].to(device) if bool(batch["ignore"].any()) else None
        loss = training_loss(model, logits.float(), batch["targets"].to(device), parts.loss, ignore=ignore)
        return loss, float(loss.detach())  # which waits for a GPU

    update = Stepper(model, build_optimizer(model, train), train, loss_of)

    def step(batch: dict[str, Any]) -> None:
        if len(batch["rows"]):
            update(batch)

    return step
