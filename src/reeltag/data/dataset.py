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
from reeltag.data.looking import Seen
from reeltag.data.sources import Source
from reeltag.errors import MediaError
from reeltag.media.sound_transforms import amplify
from reeltag.recipe import DataSection
from reeltag.schema import Modality

Swaps = dict[str, Tensor]  # name of a flip -> (L,) column that each label takes its target from
_STACKED = ("video", "flow", "waveform", "present", "targets", "ignore")
_GAIN = 0x6761696E  # sets the draws of loudness apart from those of clips


class View(Protocol):
    """How a clip is chosen and turned into the views of a video; `names` has one name a view."""

    data: DataSection
    gain_db: float

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


class FeatureView(View, Protocol):
    """A view of stored features."""

    def choose(self, num_frames: int, fps: float, generator: torch.Generator) -> Sequence[int]:
        """Return the numbers of the vectors of all views, in order."""
        ...

    def render(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, set[str]]:
        """Return (V, T, D), and the names of the flips that were applied."""
        ...


class ClipView(View, Protocol):
    """A view of pictures, flow and sound."""

    modalities: Sequence[Modality]

    def look(self, source: Source, generator: torch.Generator) -> Seen:
        """Return the views of an open clip, and what of it is there."""
        ...


class ClipDataset(Dataset[dict[str, Any]]):
    """Views of videos with their targets.

    An item is one clip of a `schema.Batch`, or holds `bad` in place of all input when its file cannot be read, or
    `absent` when it has none of the modalities that are asked for: a silent clip for a model of sound.

    Args:
        footage: where clips come from.
        view: what part of them, and how it is cropped.
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
        return self.amplified(self.as_recorded(key), key)

    def as_recorded(self, key: Key) -> dict[str, Any]:
        """Return an item whose sound is as loud as in the file: what is mixed before it is amplified."""
        epoch, row, copy = key
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, row, *([copy] if copy else [])))
        try:
            seen = self._seen(row, self.view.at_epoch(epoch), generator)
        except MediaError as error:
            manifest = self.footage.manifest
            bad = {"row": row, "video_id": manifest.video_ids[row], "path": error.path}
            return {"row": row, "bad": {**bad, "reason": error.reason, "message": error.detail}}
        if not seen.inputs:
            return {"row": row, "absent": True}
        targets, ignore = self.targets[row], self.ignore[row]
        for flip in sorted(seen.applied & self.swaps.keys()):
            targets, ignore = targets[self.swaps[flip]], ignore[self.swaps[flip]]
        item = {"row": row, **seen.inputs, "targets": targets, "ignore": ignore}
        if "waveform" in seen.inputs or len(seen.present) > 1:
            item["present"] = torch.tensor(seen.present)
        return item

    def amplified(self, item: dict[str, Any], key: Key) -> dict[str, Any]:
        """Return the item with its sound at a random gain, within `data.audio.gain_db` of what it was."""
        gain_db = self.view.gain_db
        if not gain_db or "waveform" not in item:
            return item
        generator = torch.Generator().manual_seed(mix(self.seed, *key, _GAIN))
        even = float(torch.rand((), generator=generator, dtype=torch.float64))
        return {**item, "waveform": amplify(item["waveform"], gain_db * (2 * even - 1))}

    def _seen(self, row: int, view: Any, generator: torch.Generator) -> Seen:
        name = "features" if self.footage.input_kind == "features" else "video"
        if name == "video" and view.modalities != ("rgb",):
            with self.footage.open(row) as source:  # type: ignore[attr-defined]  # of pictures and sound
                seen: Seen = view.look(source, generator)
            return seen
        frames = self.footage.clip(row, lambda n, fps: view.choose(n, fps, generator))
        clip, applied = view.render(frames, generator)
        return Seen({name: clip}, (True,), applied)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the items that can be learned from, so that a batch may hold fewer clips, or none; see `schema.Batch`.

    `bad` lists the files that could not be read, `absent` the rows of clips that have nothing of what is asked for:
    these are good files, and take no part in the loss. Features of different lengths are padded with zeros and come
    with a `mask`.
    """
    good = [item for item in items if "bad" not in item and "absent" not in item]
    bad = [item["bad"] for item in items if "bad" in item]
    absent = [item["row"] for item in items if "absent" in item]
    rows = torch.tensor([item["row"] for item in good], dtype=torch.long)
    if not good:
        return {"rows": rows, "bad": bad, "absent": absent}
    stacked = {name: torch.stack([item[name] for item in good]) for name in _STACKED if name in good[0]}
    if "features" in good[0]:
        stacked["features"], stacked["mask"] = pad_features([item["features"] for item in good])
    return {**stacked, "rows": rows, "bad": bad, "absent": absent}


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
