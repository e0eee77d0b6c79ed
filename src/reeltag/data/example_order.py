"""The order in which training sees the videos: a function of (seed, epoch) alone, so any batch can be returned to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

Key = tuple[int, int, int]  # (epoch, row of the manifest, how often the row came before in this epoch)


class EpochOrder(Sampler[list[Key]]):
    """Batches of one epoch, shuffled from (seed, epoch), from any batch on, for one of several processes.

    The permutation does not depend on workers, on the number of processes or on what was read before, so a resumed run
    continues in the middle of an epoch with the batch that came next, on however many processes. The last, smaller
    batch is left out when `drop_last` is set and an epoch has at least one whole batch.

    Args:
        rows: the rows of the manifest to visit.
        batch_size: clips per batch of all processes together; each has its share of neighbours, equal to one clip.
        seed: what the permutations are drawn from.
        rank: this process, in 0..world-1; `world`: the number of processes. Each yields as many batches as the others,
            an empty one where a last batch is smaller than `world`.
        drop_last: leave out a batch that is not whole.
        weights: how often each row is drawn relative to the others; None visits every row once an epoch.
    """

    def __init__(
        self,
        rows: list[int],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        weights: list[float] | None = None,
    ) -> None:
        if not rows:
            raise ValueError("there is no row to visit")
        if weights is not None and (len(weights) != len(rows) or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"need {len(rows)} weights >= 0 that are not all 0, got {len(weights)}")
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.rows = torch.tensor(rows)
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        whole = len(rows) // batch_size
        self.num_batches = whole if drop_last and whole else math.ceil(len(rows) / batch_size)
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.num_batches - self.start

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration yield the batches of `epoch` from number `start` on."""
        if not 0 <= start <= self.num_batches:
            raise ValueError(f"start must be in 0..{self.num_batches}, got {start}")
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        rows = self._drawn(generator)
        before: Counter[int] = Counter()
        numbered: list[Key] = []
        for row in rows[torch.randperm(len(rows), generator=generator)].tolist():
            numbered.append((self.epoch, row, before[row]))
            before[row] += 1
        for batch in range(self.start, self.num_batches):
            keys = numbered[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield keys[len(keys) * self.rank // self.world : len(keys) * (self.rank + 1) // self.world]

    def _drawn(self, generator: torch.Generator) -> Tensor:
        """The rows of an epoch, as many as there are rows: row i floor(w_i) times, and once more by chance.

        Systematic sampling: one random offset for all rows, so that counts differ from w_i by less than 1.
        """
        if self.weights is None:
            return self.rows
        edges = (self.weights / self.weights.sum()).cumsum(0) * len(self.rows)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        ticks = torch.arange(len(self.rows), dtype=torch.float64) + offset
        places = torch.searchsorted(edges, ticks, right=True).clamp(max=len(self.rows) - 1)
        return self.rows[places]


def mix(*numbers: int) -> int:
    """Return one 63-bit seed from several non-negative numbers (splitmix64 steps; well spread and order-dependent)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
