"""YouTube-8M and AudioSet records: video-level and frame-level features with labels, read and written by shard."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reeltag.data.tf_example import (
    Value,
    decode_example,
    decode_frames,
    decode_sequence,
    encode_example,
    encode_sequence,
)
from reeltag.data.tfrecord import Damage, OnDamage, fail, read_records, write_records
from reeltag.data.vocab import check_labels
from reeltag.errors import ManifestError

Level = Literal["frame", "video"]
QUANTIZED_RANGE = (-2.0, 2.0)
ID_NAMES = ("id", "video_id")  # of 2018 and later, and of before; AudioSet has the second
STREAMS = {"rgb": 1024, "audio": 128}
VIDEO_STREAMS = {"mean_rgb": 1024, "mean_audio": 128}
AUDIOSET_STREAMS = {"audio_embedding": 128}


@dataclass(frozen=True)
class VideoRecord:
    """One video of a shard.

    Attributes:
        video_id: as the record has it.
        labels: int64 (n,), indices into the vocabulary.
        features: by name; uint8 (T, D) of frame-level records, float32 (D,) of video-level ones.
    """

    video_id: str
    labels: NDArray[np.int64]
    features: dict[str, NDArray[Any]]


def dequantize(values: NDArray[np.uint8], low: float = -2.0, high: float = 2.0) -> NDArray[np.float32]:
    """Return features as YouTube-8M's readers do: q * (high - low) / 255 + (high - low) / 512 + low, float32.

    Paper: Abu-El-Haija et al. YouTube-8M, arXiv:1609.08675, section 3 (8 bits a value). The half step makes 0 become
    -1.992 and 255 become 2.008 in the default range, as in the reader that published models were trained with.
    """
    found = np.multiply(values, np.float32((high - low) / 255), dtype=np.float32)
    found += np.float32((high - low) / 512 + low)
    return found


def quantize(values: NDArray[np.floating], low: float = -2.0, high: float = 2.0) -> NDArray[np.uint8]:
    """Return the nearest of 256 levels of features clipped to [low, high], the inverse of `dequantize`."""
    steps = (np.clip(values, low, high) - ((high - low) / 512 + low)) * (255 / (high - low))
    return np.clip(np.rint(steps), 0, 255).astype(np.uint8)


def decode_video(data: bytes, level: Level) -> VideoRecord:
    """Return the video of one record; ValueError when the bytes are no such record."""
    features: dict[str, NDArray[Any]]
    if level == "frame":
        context, lists = decode_sequence(data)
        features = {name: decode_frames(frames) for name, frames in lists.items()}
    else:
        context = decode_example(data)
        features = {name: value for name, value in context.items() if _is_float(value)}  # type: ignore[misc]
    labels = context.get("labels", [])
    if isinstance(labels, list):
        if labels:
            raise ValueError("`labels` holds byte strings where numbers belong")
        labels = np.zeros(0, dtype=np.int64)
    return VideoRecord(_id(context), np.unique(labels.astype(np.int64)), features)


def _is_float(value: Value) -> bool:
    return not isinstance(value, list) and value.dtype == np.float32


def _id(context: Mapping[str, Value]) -> str:
    for name in ID_NAMES:
        value = context.get(name)
        if isinstance(value, list) and value:
            return value[0].decode(errors="replace")
    raise ValueError(f"the record has none of the ids {', '.join(ID_NAMES)}; it has {', '.join(sorted(context))}")


def encode_video(video: VideoRecord, level: Level) -> bytes:
    """Return the record of a video, the inverse of `decode_video`."""
    context: dict[str, Any] = {"id": [video.video_id.encode()], "labels": video.labels}
    if level == "frame":
        return encode_sequence(context, video.features)
    return encode_example({**context, **video.features})


def read_shard(
    path: str | Path, level: Level = "frame", *, part: int = 0, parts: int = 1, on_damage: OnDamage = fail
) -> Iterator[VideoRecord]:
    """Yield the videos of a shard; records that are damaged, or hold something else, are reported and passed over.

    Args:
        path: a .tfrecord file.
        level: of its records.
        part: of `parts`, see `read_records`.
        parts: as there.
        on_damage: called for each; the default raises StoreError.
    """
    for record in read_records(path, part=part, parts=parts, on_damage=on_damage):
        try:
            yield decode_video(record.data, level)
        except ValueError as error:
            on_damage(Damage(str(path), record.offset, f"no {level}-level record: {error}"))


def write_shard(path: str | Path, videos: Iterable[VideoRecord], level: Level = "frame") -> int:
    """Write a shard, whole or not at all, and return the number of videos."""
    return write_records(path, (encode_video(video, level) for video in videos))


def find_shards(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the .tfrecord files of a folder, sorted, or the files of a list.

    Raises:
        ManifestError: there is none.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        shards = sorted(path.rglob("*.tfrecord")) if path.is_dir() else [path]
    else:
        shards = [Path(item) for item in source]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise ManifestError(
            f"no TFRecord file {', '.join(missing[:3]) or f'in {source}'}; give files, or a folder of *.tfrecord"
        )
    return shards


def read_vocabulary(path: str | Path) -> list[str]:
    """Return the label names of a vocabulary file of YouTube-8M or AudioSet in the order of their indices.

    A csv with the columns `Index` and `Name` (YouTube-8M) or `index` and `display_name` (AudioSet). A label without a
    name, or with one that another label has, is called by its knowledge-graph id.

    Raises:
        ManifestError: other columns, or indices that are not 0 to L - 1.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = next((c for c in _VOCABULARY_COLUMNS if rows and set(c) <= set(rows[0])), None)
    if columns is None:
        found = ", ".join(rows[0]) if rows else "no rows"
        raise ManifestError(f"{path}: a vocabulary has the columns {_VOCABULARY_COLUMNS}; found {found}")
    index, name, identity = columns
    try:
        by_index = {int(row[index]): (row[name].strip(), row[identity].strip()) for row in rows}
    except ValueError as error:
        raise ManifestError(f"{path}: the column {index} holds whole numbers: {error}") from None
    if sorted(by_index) != list(range(len(rows))):
        raise ManifestError(f"{path}: the column {index} must hold 0 to {len(rows) - 1}, each once")
    names: list[str] = []
    for _, (label, own) in sorted(by_index.items()):
        names.append(own if not label or label in names else label)
    return check_labels(names, where=str(path))


_VOCABULARY_COLUMNS = (("Index", "Name", "KnowledgeGraphId"), ("index", "display_name", "mid"))
