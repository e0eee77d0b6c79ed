"""The loss of a whole batch whose clips lie on several processes: the same number, and gradient, as on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reeltag.data.dataset import ClipDataset, collate
from reeltag.data.example_order import Key, mix
from reeltag.data.mixing import MixedClips
from reeltag.engine.step import Batch, cut
from reeltag.errors import TooManyBadFiles
from reeltag.models.training_loss import has_own_loss
from reeltag.processes import Processes

Loss = Callable[..., Tensor]


def loss_of_all(
    loss: Loss, processes: Processes, logits: Tensor, targets: Tensor, ignore: Tensor, counts: list[int]
) -> tuple[Tensor, float]:
    """Return what to go backward from, and the loss of the clips of all processes together.

    Many losses are no mean over clips (`bce` with unknown pairs, `wlsep`, a bad file in one part), so the mean of the
    processes' losses would be another number. Instead each process computes the loss of all logits, of which its own
    carry gradient. Their gradients add up to that of one process; what averages gradients over `world` processes needs
    `world` times the loss.

    Args:
        loss: from (logits, targets, ignore=) to a scalar.
        processes: all of them call this at once.
        logits: (B, L) of this process's clips, of which the first `counts[rank]` count.
        targets: (B, L), on any device; `ignore` likewise.
        ignore: (B, L) bool.
        counts: clips of each process.

    Returns:
        The scalar to go backward from, and the value of the loss.
    """
    rank = processes.rank
    device = logits.device
    known = torch.cat([targets.to(device).float(), ignore.to(device).float()], 1)  # (B, 2 L)
    found = processes.rows_of_all(torch.cat([logits.float(), known], 1), counts)
    width = logits.shape[1]
    parts = [part[:, :width] for part in found]
    parts[rank] = logits[: counts[rank]]
    truth = torch.cat(found)[:, width:]
    unknown = truth[:, width:] > 0.5
    whole = loss(torch.cat(parts), truth[:, :width], ignore=unknown if bool(unknown.any()) else None)
    # A process without a clip takes part with a gradient of 0: the others wait for it.
    return processes.world * whole + 0 * logits.sum(), float(whole.detach())


def training_loss_of_all(
    model: nn.Module, loss: Loss, processes: Processes, logits: Tensor, batch: Batch
) -> tuple[Tensor, float]:
    """Return what `loss_of_all` does, for a model that may have a training loss of its own.

    Such a loss reads outputs that only this process has. It counts by the process's share of the clips, which is exact
    for a mean over clips; a mean over known pairs (`ignore`) or over present labels (`wlsep`) becomes another number.

    Args:
        model: without the wrappers of distributed training.
        loss: the recipe's.
        processes: all of them call this at once.
        logits: (B, L) of this process's clips, float32.
        batch: with `counts`, the clips of each process, as `shares_of_all` gives it.
    """
    counts: list[int] = batch["counts"]
    if not has_own_loss(model):
        return loss_of_all(loss, processes, logits, batch["targets"], batch["ignore"], counts)
    ignore = batch["ignore"].to(logits.device) if bool(batch["ignore"].any()) else None
    own = model.training_loss(logits, batch["targets"].to(logits.device), loss, ignore=ignore)
    own = own * (counts[processes.rank] / sum(counts))
    shares = processes.rows_of_all(own.reshape(1, 1), [1] * processes.world)
    return processes.world * own, float(torch.cat(shares).sum())


def shares_of_all(batch: Batch, count: int, rank: int) -> Iterator[tuple[Batch, float]]:
    """Yield this process's part of each of `count` parts of a batch of all processes, and the whole part's share.

    Every process yields as many, so that they exchange gradients and logits in step. Where it has fewer clips than
    there are parts, one that counts nowhere takes part.

    Args:
        batch: of at least one clip, with `counts`, the clips of each process; the parts have `counts` of their own, and
            their number as `part`.
        count: the most parts; no more than the largest share has clips.
        rank: this process.
    """
    counts: list[int] = batch["counts"]
    count = max(1, min(count, max(counts)))
    for number in range(count):
        sizes = [own * (number + 1) // count - own * number // count for own in counts]
        first = min(counts[rank] * number // count, len(batch["rows"]) - 1)
        part = cut(batch, first, first + max(1, sizes[rank]))
        yield {**part, "counts": sizes, "part": number}, sum(sizes) / sum(counts)


def seed_forward(processes: Processes, seed: int, step: int, part: int = 0) -> None:
    """Seed torch's generators for one forward pass, so that processes drop out other units and a resume the same."""
    torch.manual_seed(mix(seed, step, processes.rank + 1, part))


def seed_loss(seed: int, step: int, part: int = 0) -> None:
    """Seed torch's generators for one loss: what it draws must be the same on every process."""
    torch.manual_seed(mix(seed, step, 0, part))


def stand_in(dataset: ClipDataset | MixedClips, epoch: int, rows: list[int]) -> dict[str, Any]:
    """Return a batch of one clip for a process whose own clips are all unreadable; its row is -1, it counts nowhere.

    Raises:
        TooManyBadFiles: no clip of `rows` can be read.
    """
    for row in rows:
        key: Key = (epoch, row, 0)
        batch = collate([dataset[key]])
        if len(batch["rows"]):
            return {**batch, "rows": torch.tensor([-1])}
    raise TooManyBadFiles("no clip could be read; run `reeltag data check MANIFEST`")


def in_step(batches: Iterator[dict[str, Any]], num_batches: int, spare: Callable[[], dict[str, Any]]) -> Iterator[Any]:
    """Yield exactly `num_batches` batches with clips in each, `spare()` where there is none.

    A sharded model gathers its weights for every forward pass, so all processes must make as many.
    """
    given = 0
    for batch in batches:
        yield batch if len(batch["rows"]) else {**spare(), "bad": batch["bad"]}
        given += 1
    for _ in range(num_batches - given):
        yield spare()
