"""Splitting a manifest into train, val and test so that label ratios hold and groups stay together."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError
from reeltag.registry import close_name

SPLITS = ("train", "val", "test")


def split_manifest(
    manifest: Manifest, val: float = 0.1, test: float = 0.1, seed: int = 0, group: str | None = None
) -> Manifest:
    """Return the manifest with a new `splits` column; earlier splits are replaced.

    Paper: Sechidis, Tsoumakas, Vlahavas. On the Stratification of Multi-label Data. ECML PKDD 2011, algorithm 1:
    the label with the fewest clips left is dealt out first, each clip to the split that still wants most of that label.
    Departures: whole groups are dealt, greater ones first, and count with all their clips and labels; afterwards the
    smallest group of a label that train would not see is moved to train.

    Args:
        val, test: share of the clips in [0, 1); the rest is train. A share of 0 leaves that split out.
        seed: decides between splits that want a group equally, and nothing else.
        group: the extra column that names groups; default: the manifest's `group`. A clip with an empty cell is alone.

    Raises:
        ManifestError: shares that leave nothing for train, or no such column.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ManifestError(f"val {val} and test {test} must be in [0, 1) and leave a share for train; try 0.1 and 0.1")
    groups = _groups(manifest, group)
    owner, names = _owners(groups, len(manifest))
    num_groups = len(names)
    cells_group, cells_label, cells_count = _label_cells(manifest, owner)
    sizes = np.bincount(owner, minlength=num_groups)
    shares = np.array([1 - val - test, val, test])
    table = _Dealing(cells_group, cells_label, cells_count, sizes, shares, len(manifest.label_names), seed)
    chosen = table.deal()
    splits = tuple(SPLITS[chosen[group_index]] for group_index in owner)
    return replace(manifest, splits=splits, groups=groups if group is not None else manifest.groups)


def _groups(manifest: Manifest, column: str | None) -> tuple[str, ...] | None:
    if column is None or column == "group":
        return manifest.groups
    if column not in manifest.extra:
        known = ["group", *manifest.extra]
        raise ManifestError(
            f"No column {column!r} to group by. {close_name(column, known)}There are {', '.join(known)}."
        )
    return tuple("" if value is None else str(value) for value in manifest.extra[column])


def _owners(groups: tuple[str, ...] | None, num_clips: int) -> tuple[NDArray[np.int64], list[object]]:
    """Return the group index of each clip and the groups in order of their first clip."""
    if groups is None:
        return np.arange(num_clips), list(range(num_clips))
    index: dict[object, int] = {}
    owner = [index.setdefault(name or row, len(index)) for row, name in enumerate(groups)]
    return np.asarray(owner), list(index)


def _label_cells(manifest: Manifest, owner: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return (group, label, clips) of every non-zero cell of the groups x labels table, sorted by group, then label."""
    counts = [len(row) for row in manifest.labels]
    clip_group = np.repeat(owner, counts)
    clip_label = np.fromiter((index for row in manifest.labels for index in row), np.int64, sum(counts))
    num_labels = max(len(manifest.label_names), 1)
    cells, clips = np.unique(clip_group * num_labels + clip_label, return_counts=True)
    return cells // num_labels, cells % num_labels, clips


class _Dealing:
    """The state of the algorithm: what each split still wants of each label and in all."""

    def __init__(
        self,
        cells_group: NDArray[np.int64],
        cells_label: NDArray[np.int64],
        cells_count: NDArray[np.int64],
        sizes: NDArray[np.int64],
        shares: NDArray[np.float64],
        num_labels: int,
        seed: int,
    ) -> None:
        num_groups = len(sizes)
        self.num_labels = num_labels
        self.sizes = sizes.tolist()
        starts = np.searchsorted(cells_group, np.arange(num_groups + 1)).tolist()
        self.label_of = cells_label.tolist()
        self.count_of = cells_count.tolist()
        self.span = list(pairwise(starts))
        by_label = np.argsort(cells_label, kind="stable")
        edges = np.searchsorted(cells_label[by_label], np.arange(num_labels + 1)).tolist()
        members = cells_group[by_label]
        self.members = [members[first:last] for first, last in pairwise(edges)]
        totals = np.bincount(cells_label, weights=cells_count, minlength=num_labels)
        self.left = totals.copy()  # clips of each label not yet dealt
        self.wanted: list[list[float]] = (shares[None, :] * totals[:, None]).tolist()  # (L, 3)
        self.wanted_clips: list[float] = (shares * sizes.sum()).tolist()
        self.open = [split for split in range(3) if shares[split] > 0]
        self.chosen = np.full(num_groups, -1, dtype=np.int64)
        # A fixed order per seed stands for the paper's random choice between equal splits.
        self.ties = np.random.default_rng(seed).random((num_groups, 3)).tolist()

    def deal(self) -> NDArray[np.int64]:
        """Return the split of each group."""
        while (self.left > 0).any():
            label = int(np.where(self.left > 0, self.left, np.inf).argmin())
            waiting = [group for group in self.members[label].tolist() if self.chosen[group] < 0]
            waiting.sort(key=lambda group: (-self.sizes[group], self.ties[group]))
            for group in waiting:
                self._give(group, self.wanted[label])
        for group in sorted(np.flatnonzero(self.chosen < 0).tolist(), key=lambda g: (-self.sizes[g], self.ties[g])):
            self._give(group, self.wanted_clips)
        self._let_train_see_every_label()
        return self.chosen

    def _give(self, group: int, wanted: list[float]) -> None:
        ties = self.ties[group]
        split = max(self.open, key=lambda s: (round(wanted[s], 9), round(self.wanted_clips[s], 9), ties[s]))
        self.chosen[group] = split
        self.wanted_clips[split] -= self.sizes[group]
        for cell in range(*self.span[group]):
            self.wanted[self.label_of[cell]][split] -= self.count_of[cell]
            self.left[self.label_of[cell]] -= self.count_of[cell]

    def _let_train_see_every_label(self) -> None:
        for members in self.members:
            if len(members) and not (self.chosen[members] == 0).any():
                self.chosen[min(members.tolist(), key=lambda group: (self.sizes[group], self.ties[group]))] = 0
