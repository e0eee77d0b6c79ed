"""A validation during training: every row scored once, by one of the processes, and every metric from all scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from reeltag.data.dataset import ClipDataset, in_order, make_loader
from reeltag.engine.global_batch import in_step, stand_in
from reeltag.errors import TooManyBadFiles
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.metrics.streaming import Accumulator
from reeltag.models.scoring import Activation, Average, score_videos
from reeltag.processes import Processes

Watched = Callable[[Iterable[dict[str, Any]], str], Iterator[dict[str, Any]]]


def measure_rows(
    model: nn.Module,
    test: ClipDataset,
    rows: list[int],
    processes: Processes,
    *,
    batch_size: int,
    workers: int,
    average: Average,
    activation: Activation,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    watched: Watched,
    sharded: bool = False,
) -> dict[str, float]:
    """Return every metric that is defined on these rows, by name; the same on all processes, which all call it.

    Args:
        model: without DDP, whose forward passes exchange buffers and so would have to be as many on every process.
        test: views of the videos.
        rows: of the manifest, to score.
        processes: they share the rows; the main one's buffers (running statistics) are given to all.
        batch_size: views that all processes together hold at once.
        workers: loader processes of each process.
        average: how the views of a video become one score.
        activation: what makes probabilities of logits.
        device: where the model is.
        autocast: the context of its forward passes.
        watched: shows progress over batches.
        sharded: whether each process holds a part of the model, so that all must make as many forward passes.

    Raises:
        TooManyBadFiles: no clip could be read.
    """
    size = max(1, batch_size // processes.world // test.view.num_views)
    loader: Any = make_loader(test, in_order(processes.share(rows), size), workers=workers)
    batches = watched(loader, "validating")
    processes.same_buffers(model)
    if sharded:
        most = max(count for (count,) in processes.counts(len(loader)))
        batches = in_step(batches, most, lambda: stand_in(test, 0, rows))
    seen = Accumulator()
    for part in score_videos(model, batches, average=average, activation=activation, device=device, autocast=autocast):
        known = part.rows[part.rows >= 0]
        if len(known):
            seen.add(part.scores, test.targets[known], test.ignore[known], rows=known)
    parts = processes.to_main(seen)
    return processes.from_main(lambda: _measure(Accumulator.merged(parts)))


def _measure(seen: Accumulator) -> dict[str, float]:
    if not len(seen):
        raise TooManyBadFiles(
            "no clip of the validation split can be read, or none has what the model takes; run `reeltag data check`"
        )
    pairs = seen.pairs()
    values = evaluate_scores(pairs, pairs.targets).values
    return {name: value for name, value in values.items() if not math.isnan(value)}
