"""Writing a feature store so that it can be killed at any moment, continued, appended to and mended."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from reeltag.data.feature_source import SOURCE_FILE, FeatureSource
from reeltag.data.features import PLACES, checksum, index_path, read_index, write_index
from reeltag.data.manifest import Manifest
from reeltag.errors import StoreError
from reeltag.store.atomic import sha256_of, write_atomic
from reeltag.store.lock import FolderLock

SHARD_BYTES = 64 << 20
SHARD_S = 60.0  # what a kill can cost


@dataclass(frozen=True)
class Place:
    """Where the features of a video lie: its frames in a shard, and their CRC-32."""

    shard: str
    first: int
    count: int
    crc32: int


class FeatureWriter:
    """Adds videos to a folder of features; use as a context manager.

    A shard is written whole, then its index `shard-000000.json` with its SHA-256 and the videos in it. A shard counts
    once its index is there, so that a kill loses at most the shard that was open. On opening, every shard is compared
    with its SHA-256; what a damaged one held is no longer known and will be made again. Readers keep seeing the old
    manifest until `finish`.

    Args:
        folder: made when it does not exist.
        source: what makes the features; a folder that holds those of another source is refused.
        shard_bytes, shard_s: a shard is closed once it is this large, or this old.

    Raises:
        StoreError: the folder holds features of other weights, settings or PCA, or another process writes to it.
    """

    def __init__(
        self, folder: Path, source: FeatureSource, *, shard_bytes: int = SHARD_BYTES, shard_s: float | None = None
    ) -> None:
        self.folder, self.source = folder, source
        self._limits = shard_bytes, SHARD_S if shard_s is None else shard_s
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(folder, "features")
        try:
            _claim(folder, source)
            self.known: dict[str, Place] = {}
            self.damaged: list[str] = []
            self._read_shards()
        except BaseException:
            self._lock.close()
            raise
        self._new_shard()

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # Also on Ctrl-C and after an error: what was computed is kept.
            self.flush()
        finally:
            self._lock.close()

    def _read_shards(self) -> None:
        for stray in self.folder.glob(".shard-*"):
            stray.unlink()
        self._number = 0
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            self._number = max(self._number, int(path.stem.removeprefix("shard-")) + 1)
            index = read_index(self.folder, path.name)
            if index is None or sha256_of(path) != index["sha256"]:
                self.damaged.append(path.name)
                continue
            for key, place in index["videos"].items():
                self.known[key] = Place(path.name, *place)

    def _new_shard(self) -> None:
        self._features: list[Tensor] = []
        self._times: list[NDArray[np.float64]] = []
        self._videos: dict[str, tuple[int, int, int]] = {}
        self._bytes = self._frames = 0
        self._opened_s = time.monotonic()

    def add(self, key: str, features: Tensor, times_s: NDArray[np.float64]) -> None:
        """Add the coded features (T, D) of a video and the times (T,) of its frames, T > 0.

        Raises:
            ValueError: the shapes do not fit, or the width is not that of the source.
        """
        if features.ndim != 2 or features.shape != (len(times_s), sum(self.source.feature_sizes)) or not len(times_s):
            raise ValueError(f"features {tuple(features.shape)} with {len(times_s)} times, expected widths "
                             f"{self.source.feature_sizes} and one time a vector")  # fmt: skip
        features = features.detach().cpu().contiguous()
        times = np.ascontiguousarray(times_s, dtype=np.float64)
        self._features.append(features)
        self._times.append(times)
        self._videos[key] = (self._frames, len(features), checksum(features, times))
        self._frames += len(features)
        self._bytes += features.numel() * features.element_size()
        if self._bytes >= self._limits[0] or time.monotonic() - self._opened_s >= self._limits[1]:
            self.flush()

    def flush(self) -> None:
        """Write the open shard and its index, if it holds a video."""
        if self._videos:
            name = f"shard-{self._number:06d}.safetensors"
            tensors = {"features": torch.cat(self._features), "times_s": torch.from_numpy(np.concatenate(self._times))}
            write_atomic(self.folder / name, save(tensors))
            write_index(self.folder, name, self._videos)
            self.known |= {key: Place(name, *place) for key, place in self._videos.items()}
            self._number += 1
        self._new_shard()

    def finish(self, manifest: Manifest, keys: Sequence[str], bad: Sequence[dict[str, Any]] = ()) -> Manifest:
        """Write the manifest of all videos whose features are there, and list the others; returns that manifest.

        Args:
            manifest: every video that was asked for.
            keys: the key of each row, as given to `add`.
            bad: a dictionary for each video that could not be read.

        Raises:
            StoreError: no video at all has features.
        """
        self.flush()
        rows = [row for row, key in enumerate(keys) if key in self.known]
        lines = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in bad)
        write_atomic(self.folder / "bad_files.jsonl", lines)
        if not rows:
            raise StoreError(f"no video has features; {self.folder / 'bad_files.jsonl'} says why each was left out")
        kept = manifest.take(rows)
        places = [self.known[keys[row]] for row in rows]
        columns = zip(
            *((keys[row], p.shard, p.first, p.count, p.crc32) for row, p in zip(rows, places, strict=True)), strict=True
        )
        kept = replace(kept, extra={**kept.extra, **dict(zip(PLACES, map(tuple, columns), strict=True))})
        kept.write(self.folder / "manifest.parquet")
        for name in self.damaged:  # only now: until here a reader of the old manifest could still use the good part
            (self.folder / name).unlink(missing_ok=True)
            index_path(self.folder, name).unlink(missing_ok=True)
        self.damaged = []
        return kept


def _claim(folder: Path, source: FeatureSource) -> None:
    """Write down whose features the folder holds, or check that they are the same."""
    if not (folder / SOURCE_FILE).exists():
        if any(folder.glob("shard-*")) or any((folder / name).exists() for name in ("recipe.yaml", "config.json")):
            raise StoreError(f"{folder} holds something else than features; choose another --out")
        source.write(folder)
        return
    FeatureSource.read(folder).require_equal(
        source, names=(str(folder), "this call"), cure="features are never mixed: choose another --out"
    )
