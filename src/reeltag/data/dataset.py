"""Clips and targets by (epoch, row, copy), drawn from a generator that depends on nothing else; and their loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reeltag.data.example_order import Key, mix
from reeltag.data.features import pad_features
from reeltag.data.footage import Footage
from reeltag.errors import MediaError

Swaps = dict[str, Tensor]  # name of a flip -> (L,) column that each label takes its target from


class View(Protocol):
    """How frames are chosen and turned into the views of a video; `names` has one name a view."""

    def at_epoch(self, epoch: int) -> View:
        """Return the view that this epoch uses."""
        ...

    @property
    def num_views(self) -> int:
        """V."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """V names, such as `clip0_crop1`."""
        ...

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> Sequence[int]:
        """Return the frame numbers of all views, in order."""
        ...

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return uint8 (V, T, C, H, W), or features (V, T, D), and the names of the flips that were applied."""
        ...


class ClipDataset(Dataset[dict[str, Any]]):
    """Views of videos with their targets; an unreadable video gives an item with `bad` in place of pixels.

    Args:
        footage: where frames come from.
        view: which frames and how they are cropped.
        seed: with the key (epoch, row, copy) the only source of randomness.
        swaps: for each flip the permutation of labels that it causes (a mirrored `left` is a `right`).
    """

    def __init__(self, footage: Footage, view: View, *, seed: int = 0, swaps: Swaps | None = None) -> None:
        self.footage = footage
        self.view = view
        self.seed = seed
        self.swaps = swaps or {}
        self.targets = torch.from_numpy(footage.manifest.targets())
        self.ignore = torch.from_numpy(footage.manifest.ignore_mask())

    def __len__(self) -> int:
        return len(self.footage.manifest)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, row, copy = key
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, row, *([copy] if copy else [])))
        view = self.view.at_epoch(epoch)
        try:
            frames = self.footage.clip(row, lambda n, fps: view.choose(n, fps, generator))
        except MediaError as error:
            manifest = self.footage.manifest
            bad = {"row": row, "video_id": manifest.video_ids[row], "path": error.path}
            return {"row": row, "bad": {**bad, "reason": error.reason, "message": error.detail}}
        video, applied = view.render(frames, generator)
        targets, ignore = self.targets[row], self.ignore[row]
        for flip in sorted(applied & self.swaps.keys()):
            targets, ignore = targets[self.swaps[flip]], ignore[self.swaps[flip]]
        name = "features" if self.footage.input_kind == "features" else "video"
        return {"row": row, name: video, "targets": targets, "ignore": ignore}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the items that could be read; `bad` lists the others, so that a batch may hold fewer clips, or none.

    Features of different lengths are padded with zeros and come with a `mask`.
    """
    good = [item for item in items if "bad" not in item]
    bad = [item["bad"] for item in items if "bad" in item]
    rows = torch.tensor([item["row"] for item in good], dtype=torch.long)
    if not good:
        return {"rows": rows, "bad": bad}
    names = ("video", "targets", "ignore") if "video" in good[0] else ("targets", "ignore")
    stacked = {name: torch.stack([item[name] for item in good]) for name in names}
    if "features" in good[0]:
        stacked["features"], stacked["mask"] = pad_features([item["features"] for item in good])
    return {**stacked, "rows": rows, "bad": bad}


def label_swaps(pairs: Mapping[Any, list[tuple[str, str]]], label_names: list[str]) -> Swaps:
    """Return the permutation of label columns for each flip from pairs of names that it exchanges.

    Raises:
        ValueError: a name is not a label, or stands in two pairs of one flip.
    """
    column = {name: index for index, name in enumerate(label_names)}
    swaps = {}
    for flip, exchanged in pairs.items():
        order = torch.arange(len(label_names))
        named = [name for pair in exchanged for name in pair]
        if len(set(named)) != len(named):
            raise ValueError(f"data.swap_labels.{flip}: a label stands in two pairs")
        for name in named:
            if name not in column:
                raise ValueError(f"data.swap_labels.{flip}: {name!r} is no label of this manifest")
        for first, second in exchanged:
            order[column[first]], order[column[second]] = column[second], column[first]
        swaps[flip] = order
    return swaps


def balanced_weights(targets: Tensor, columns: list[int]) -> list[float]:
    """Return a weight for each clip so that every label of `columns` is drawn equally often.

    Args:
        targets: (N, L), 0 or 1.
        columns: the labels to balance; a clip takes the weight 1 / count of its rarest one, and a clip without any of
            them the mean weight of the others.
    """
    chosen = targets[:, columns] > 0  # (N, K)
    rarity = 1 / chosen.sum(0).clamp(min=1).double()
    weights = torch.where(chosen, rarity, torch.zeros(())).amax(1)
    has_any = chosen.any(1)
    mean = float(weights[has_any].mean()) if bool(has_any.any()) else 1.0
    return torch.where(has_any, weights, torch.full((), mean, dtype=torch.float64)).tolist()


def make_loader(
    dataset: Dataset[dict[str, Any]], keys: Iterable[list[Key]], *, workers: int, seed: int = 0
) -> DataLoader[Any]:
    """Return a loader over batches of keys; its own generator keeps it from drawing on the global one."""
    return DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(seed),
    )


def in_order(rows: Iterable[int], batch_size: int) -> list[list[Key]]:
    """Return batches of keys that visit rows once in their order, as evaluation does."""
    keys = [(0, row, 0) for row in rows]
    return [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
