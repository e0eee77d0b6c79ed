"""Scores that come in batches, or from several processes, kept for metrics that equal those of one call exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from reeltag.metrics.pairs import Array, Kind, Pairs, as_array, pairs_of

if TYPE_CHECKING:
    from torch import Tensor


class Accumulator:
    """Takes batches of scores and truth, and gives them back as one `Pairs` for any metric.

    A rank needs every score, so exact rank metrics must keep them: N x L x (bytes of a score + 1), and as much again of
    masks if a pair is ignored. Measures on bins would need less and give other numbers. Parts that several processes
    have seen are merged, and with `rows` each video counts once, however often samplers repeated it:

        for batch in batches:
            seen.add(scores, targets, rows=rows)
        pairs = seen.pairs()
        METRICS["map_macro"](pairs, pairs.targets)
    """

    def __init__(self) -> None:
        self._scores: list[Array] = []
        self._targets: list[Array] = []
        self._ignore: list[Array | None] = []
        self._rows: list[Array] = []

    def __len__(self) -> int:
        """Return the videos taken so far, repeated ones included."""
        return sum(map(len, self._scores))

    def add(
        self,
        scores: Array | Tensor,
        targets: Array | Tensor,
        ignore: Array | Tensor | None = None,
        *,
        rows: Array | Tensor | None = None,
    ) -> None:
        """Take a batch; the arrays are copied where they could change later.

        Args:
            scores: (B, L), higher is more likely.
            targets: (B, L), 0 or 1.
            ignore: (B, L), true where the truth is unknown.
            rows: (B,) numbers of the videos, in all batches or in none. Of a video that comes again, the first scores
                count, and the result is in the order of the numbers.

        Raises:
            ValueError: as in `pairs_of`; another number of labels than before; rows in some batches only, or not B.
        """
        batch = pairs_of(scores, targets, ignore)
        if self._scores and batch.num_labels != self._scores[0].shape[1]:
            raise ValueError(f"this batch has {batch.num_labels} labels, those before {self._scores[0].shape[1]}")
        if self._scores and (rows is None) == bool(self._rows):
            raise ValueError("give the rows of every batch, or of none")
        if rows is not None:
            numbers = as_array(rows).astype(np.int64)
            if numbers.shape != (batch.num_videos,):
                raise ValueError(f"rows must be ({batch.num_videos},), one per video, got {numbers.shape}")
            self._rows.append(numbers)
        self._scores.append(batch.scores.copy())
        self._targets.append(batch.targets != 0)
        self._ignore.append(None if batch.ignore is None else batch.ignore.copy())

    def merge(self, other: Accumulator) -> None:
        """Take what another accumulator holds, for example of another process. Errors as in `add`."""
        for i, (scores, targets) in enumerate(zip(other._scores, other._targets, strict=True)):
            self.add(scores, targets, other._ignore[i], rows=other._rows[i] if other._rows else None)

    @classmethod
    def merged(cls, parts: Iterable[Accumulator]) -> Accumulator:
        """Return one accumulator of several."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

    def pairs(self, kind: Kind | None = None) -> Pairs:
        """Return everything taken so far, each video once; more can be added afterwards.

        Batches are freed as they are joined, so the peak is one matrix and one batch, not two matrices.

        Raises:
            ValueError: nothing was added.
        """
        if not self._scores:
            raise ValueError("nothing was added, so there is nothing to measure")
        shape = (len(self), self._scores[0].shape[1])
        order = self._order() if self._rows else np.arange(shape[0])
        count = int(order.max()) + 1  # a video that came again has no place: -1
        scores = np.empty((count, shape[1]), dtype=np.result_type(*self._scores))
        targets = np.empty((count, shape[1]), dtype=bool)
        ignore = np.zeros((count, shape[1]), dtype=bool) if any(m is not None for m in self._ignore) else None
        rows = np.concatenate(self._rows) if self._rows else None
        first = 0
        self._rows.clear()
        while self._scores:
            part, truth, mask = self._scores.pop(0), self._targets.pop(0), self._ignore.pop(0)
            place = order[first : first + len(part)]
            kept = place >= 0
            scores[place[kept]], targets[place[kept]] = part[kept], truth[kept]
            if ignore is not None and mask is not None:
                ignore[place[kept]] = mask[kept]
            first += len(part)
        if rows is not None:
            self._rows.append(np.unique(rows))
        self._scores, self._targets, self._ignore = [scores], [targets], [ignore]
        return pairs_of(scores, targets, ignore, kind=kind)

    def _order(self) -> Array:
        """The place of each video among the sorted numbers; -1 for one that came before."""
        unique, first, place = np.unique(np.concatenate(self._rows), return_index=True, return_inverse=True)
        order = np.full(len(place), -1)
        order[first] = np.arange(len(unique))
        return order
