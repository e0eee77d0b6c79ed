"""Batches of YouTube-8M videos over many shards, workers and processes, each video once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from reeltag.data.tfrecord import Damage, read_records
from reeltag.data.youtube8m import (
    STREAMS,
    VIDEO_STREAMS,
    Level,
    VideoRecord,
    decode_video,
    dequantize,
    find_shards,
)


class YouTube8M(IterableDataset[dict[str, Any]]):
    """Videos of many shards for a `DataLoader`, each video once an epoch over all workers and processes.

    Work is given out by shard; where there are fewer shards than readers, each shard is cut into parts by record
    number. Items hold `video_id`, `features` float32 (T, D) with the streams side by side (T = 1 for video-level
    records) and `labels` (n,); a record that cannot be used is an item with `damage` alone. `collate` makes batches.

    Args:
        shards: files, or a folder of them.
        num_labels: L; a record with a label outside [0, L) counts as damaged.
        streams: names and widths, in the order of the model's `feature_sizes`; None = those of YouTube-8M.
        level: of the records.
        max_frames: later frames are left out; YouTube-8M has 300 at most.
        shuffle: draw the order of shards, and of records within a buffer, from (seed, epoch).
        buffer: records held back for drawing, in each worker.
        seed: of the order.
        rank: of `world` processes, each of which reads its own share.
        world: number of processes.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        num_labels: int,
        streams: Mapping[str, int] | None = None,
        level: Level = "frame",
        max_frames: int = 300,
        shuffle: bool = False,
        buffer: int = 256,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        if level not in ("frame", "video") or max_frames < 1 or buffer < 1 or not 0 <= rank < world:
            raise ValueError(
                f"level is frame or video, max_frames and buffer at least 1, rank in [0, world); "
                f"got {level!r}, {max_frames}, {buffer}, {rank} of {world}"
            )
        self.shards = find_shards(shards)
        self.num_labels, self.level, self.max_frames = num_labels, level, max_frames
        self.streams = dict(streams or (STREAMS if level == "frame" else VIDEO_STREAMS))
        self.shuffle, self.buffer, self.seed, self.rank, self.world = shuffle, buffer, seed, rank, world
        self.epoch = 0

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Width of each stream, for the model of the same name."""
        return tuple(self.streams.values())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; every process must set the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        reader, readers = self.rank * workers + worker, self.world * workers
        shards = list(self.shards)
        random = np.random.default_rng((self.seed, self.epoch))
        if self.shuffle:  # the same draw in every reader, before the shares are cut
            shards = [shards[index] for index in random.permutation(len(shards))]
        parts = -(-readers // len(shards))
        units = [(shard, part) for shard in shards for part in range(parts)][reader::readers]
        own = np.random.default_rng((self.seed, self.epoch, reader))
        yield from self._shuffled(self._items(units, parts), own)

    def _items(self, units: list[tuple[Path, int]], parts: int) -> Iterator[dict[str, Any]]:
        for shard, part in units:
            damages: list[Damage] = []
            for record in read_records(shard, part=part, parts=parts, on_damage=damages.append):
                try:
                    yield self.item(decode_video(record.data, self.level))
                except ValueError as error:
                    damages.append(Damage(str(shard), record.offset, str(error)))
                while damages:
                    yield {"damage": damages.pop(0)}
            for damage in damages:
                yield {"damage": damage}

    def _shuffled(self, items: Iterator[dict[str, Any]], random: np.random.Generator) -> Iterator[dict[str, Any]]:
        if not self.shuffle:
            yield from items
            return
        held: list[dict[str, Any]] = []
        for item in items:
            held.append(item)
            if len(held) >= self.buffer:
                place = int(random.integers(len(held)))
                held[place], held[-1] = held[-1], held[place]
                yield held.pop()
        for place in random.permutation(len(held)):
            yield held[place]

    def item(self, video: VideoRecord) -> dict[str, Any]:
        """Return a video as an item; ValueError for a label, a stream or a width that is not ours."""
        outside = video.labels[(video.labels < 0) | (video.labels >= self.num_labels)]
        if len(outside):
            raise ValueError(f"label {outside[0]} is outside the {self.num_labels} of the vocabulary")
        parts = []
        for name, width in self.streams.items():
            if name not in video.features:
                raise ValueError(f"no stream {name!r}; it has {', '.join(sorted(video.features)) or 'none'}")
            values = video.features[name]
            values = values[None] if self.level == "video" else values[: self.max_frames]
            if values.shape[1] != width and len(values):
                raise ValueError(f"stream {name!r} has {values.shape[1]} values a frame, {width} are asked for")
            values = values.reshape(len(values), width)  # (0, 0) of a video without frames too
            parts.append(dequantize(values) if values.dtype == np.uint8 else values)
        if len({len(part) for part in parts}) > 1:
            # Sound and picture of a video may differ by a frame; what both have is used.
            shortest = min(map(len, parts))
            parts = [part[:shortest] for part in parts]
        features = np.concatenate(parts, axis=1, dtype=np.float32)
        return {"video_id": video.video_id, "features": torch.from_numpy(features), "labels": video.labels}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join items to a batch of the videos among them.

        Returns:
            `features` (B, T, D) with zeros behind the last frame, `mask` (B, T) bool, `targets` (B, L), `video_ids`,
            and `damages`, a list of `Damage`. B may be smaller than the number of items, 0 too.
        """
        videos = [item for item in items if "damage" not in item]
        longest = max((len(video["features"]) for video in videos), default=0)
        features = torch.zeros(len(videos), max(1, longest), sum(self.feature_sizes))
        mask = torch.zeros(features.shape[:2], dtype=torch.bool)
        targets = torch.zeros(len(videos), self.num_labels)
        for row, video in enumerate(videos):
            count = len(video["features"])
            features[row, :count] = video["features"]
            mask[row, :count] = True
            targets[row, torch.from_numpy(video["labels"])] = 1
        return {
            "features": features,
            "mask": mask,
            "targets": targets,
            "video_ids": [video["video_id"] for video in videos],
            "damages": [item["damage"] for item in items if "damage" in item],
        }
