"""Feature stores: the frame or clip features of every video of a manifest, read at random, each read checked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reeltag.data.feature_coding import Coding
from reeltag.data.feature_source import SOURCE_FILE, FeatureSource
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError, StoreError
from reeltag.store.atomic import sha256_of, write_json

PLACES = ("features_key", "features_shard", "features_first", "features_count", "features_crc32")


class FeatureStore:
    """The features of a folder that `reeltag extract` wrote, by row of its manifest.

    A shard is a safetensors file with `features` (N, D), float16 or uint8, and `times_s` (N,), the frames of its videos
    one after the other. It is mapped into memory and only the frames asked for are copied. Every read compares the
    CRC-32 of the video, so that a damaged shard is noticed before a model learns from it. Objects can be sent to other
    processes, which map the shards themselves.

    Args:
        folder: holds `features.json`, `manifest.parquet`, `labels.txt` and the shards.

    Raises:
        StoreError: a file is missing or damaged, or the extraction was never finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.source = FeatureSource.read(self.folder)
        self.coding = self.source.coding(self.folder)
        again = f"run the same `reeltag extract ... --out {self.folder}` again, it goes on where it stopped"
        if not (self.folder / "manifest.parquet").is_file():
            raise StoreError(f"{self.folder} holds an extraction that was never finished; {again}")
        try:
            self.manifest = Manifest.read(self.folder / "manifest.parquet")
        except ManifestError as error:
            raise StoreError(f"{error}; {again}") from error
        self._places = self._checked_places()
        self._shards: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Widths of the streams that lie side by side in a feature vector."""
        return self.source.feature_sizes

    @property
    def num_features(self) -> int:
        """D, the width of a feature vector as a model is given it."""
        return sum(self.feature_sizes)

    def num_frames(self, row: int) -> int:
        """Return how many vectors are stored of a video."""
        return int(self._places["features_count"][row])

    @property
    def keys(self) -> list[str]:
        """The key that each row was written under; it changes with whatever would change the features."""
        return [str(key) for key in self._places["features_key"]]

    def stored(self, row: int) -> tuple[Tensor, NDArray[np.float64]]:
        """Return what lies on the disk of a video: (T, D) float16 or uint8, and the (T,) times in seconds.

        Raises:
            StoreError: the shard is missing or damaged.
        """
        shard, first = str(self._places["features_shard"][row]), int(self._places["features_first"][row])
        last = first + self.num_frames(row)
        try:
            if shard not in self._shards:
                self._shards[shard] = safe_open(self.folder / shard, framework="pt")
            file = self._shards[shard]
            features, times = file.get_slice("features")[first:last], file.get_slice("times_s")[first:last].numpy()
        except (SafetensorError, OSError, ValueError, IndexError) as error:
            raise self._damaged(row, str(error)) from error
        if features.shape != (last - first, self.num_features) or checksum(features, times) != self._crc32(row):
            raise self._damaged(row, "its CRC-32 differs from the one written")
        return features, times

    def features(self, row: int) -> Tensor:
        """Return float32 (T, D): every vector of a video in the order of time."""
        return Coding.decode(self.stored(row)[0])

    def times_s(self, row: int) -> NDArray[np.float64]:
        """Return the (T,) times of the vectors in seconds from the start of the clip."""
        return self.stored(row)[1]

    def verify(self) -> None:
        """Read every shard and compare it with the SHA-256 that was written; StoreError at the first that differs."""
        for name in sorted(set(map(str, self._places["features_shard"]))):
            index = read_index(self.folder, name)
            if index is None or sha256_of(self.folder / name) != index["sha256"]:
                raise StoreError(f"{self.folder / name} is damaged (SHA-256 differs); {self._again()}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a mapping cannot travel to another process

    def _checked_places(self) -> dict[str, NDArray[Any]]:
        missing = [name for name in PLACES if name not in self.manifest.extra]
        if missing:
            raise StoreError(f"{self.folder}/manifest.parquet has no column {missing[0]!r}; {self._again()}")
        places = {name: np.asarray(self.manifest.extra[name]) for name in PLACES}
        for name in sorted(set(map(str, places["features_shard"]))):
            if Path(name).name != name or not (self.folder / name).is_file():
                raise StoreError(f"{self.folder / name}: this shard is missing; {self._again()}")
        return places

    def _crc32(self, row: int) -> int:
        return int(self._places["features_crc32"][row])

    def _again(self) -> str:
        return f"run the same `reeltag extract ... --out {self.folder}` again, it makes damaged shards anew"

    def _damaged(self, row: int, words: str) -> StoreError:
        shard = self.folder / str(self._places["features_shard"][row])
        return StoreError(f"{shard}: video {self.manifest.video_ids[row]!r} is damaged ({words}); {self._again()}")


def rate_of(times_s: NDArray[np.float64]) -> float:
    """Return the vectors per second of (T,) times; 0 where there is one alone."""
    span_s = float(times_s[-1] - times_s[0])
    return (len(times_s) - 1) / span_s if span_s > 0 else 0.0


def checksum(features: Tensor, times_s: NDArray[np.float64]) -> int:
    """Return the CRC-32 over the bytes of the features and then of the times."""
    values = np.ascontiguousarray(features.numpy())
    return zlib.crc32(np.ascontiguousarray(times_s, dtype="<f8").data, zlib.crc32(values.data))


def write_index(folder: Path, shard: str, videos: Mapping[str, tuple[int, int, int]]) -> None:
    """Write beside a shard its SHA-256, and where each video lies in it: key to (first, count, CRC-32)."""
    index = {"sha256": sha256_of(folder / shard), "videos": videos, "crc32": _crc32_of(videos)}
    write_json(index_path(folder, shard), index)


def read_index(folder: Path, shard: str) -> dict[str, Any] | None:
    """Return what `write_index` wrote, or None when it is not there or not as it was written."""
    try:
        index = json.loads(index_path(folder, shard).read_bytes())
        whole = isinstance(index["sha256"], str) and _crc32_of(index["videos"]) == index["crc32"]
        return index if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _crc32_of(videos: Mapping[str, Sequence[int]]) -> int:
    return zlib.crc32(json.dumps(videos).encode())


def index_path(folder: Path, shard: str) -> Path:
    """Return where the index of a shard lies."""
    return (folder / shard).with_suffix(".json")


def is_feature_store(folder: Path) -> bool:
    """Return whether a folder holds features: it says where they come from, and is neither a run nor a bundle."""
    beside = any((folder / name).is_file() for name in ("recipe.yaml", "config.json"))
    return (folder / SOURCE_FILE).is_file() and not beside


def pad_features(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Put clips of different lengths into one batch.

    Args:
        clips: (V, T_i, D) each, with one V and one D.

    Returns:
        (B, V, T, D) with T the longest, zeros behind the shorter ones; and the mask bool (B, V, T), True = real.
    """
    longest = max(clip.shape[1] for clip in clips)
    views, width = clips[0].shape[0], clips[0].shape[2]
    padded = torch.zeros(len(clips), views, longest, width)
    mask = torch.zeros(len(clips), views, longest, dtype=torch.bool)
    for index, clip in enumerate(clips):
        padded[index, :, : clip.shape[1]] = clip
        mask[index, :, : clip.shape[1]] = True
    return padded, mask
