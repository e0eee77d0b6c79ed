"""The score file: what a run said about each video, in parquet, with the labels and hashes that it rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from reeltag.errors import StoreError
from reeltag.store.atomic import atomic_path

Array: TypeAlias = npt.NDArray[Any]
Kind = Literal["logit", "probability"]

_KEY = b"reeltag.scores"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N videos and L labels.

    Attributes:
        video_ids: N names, each once.
        values: (N, L) float32, the mean over views.
        label_names: L names, in the order of the columns.
        kind: whether `values` are logits or probabilities in [0, 1].
        targets: (N, L) uint8, 0 or 1, or None where the truth is not known.
        ignore: (N, L) bool, True where the truth of a pair is unknown, or None.
        split: the part of the manifest, such as `val`.
        recipe_hash: of the recipe; `weights_hash` and `manifest_hash` likewise; empty where there is none.
        views: (N, V, L) float32 scores of each view, or None.
        view_names: V names, such as `clip0_left`.
        covered: (N,) bool, False where the model had nothing to look at or to hear and `values` are the shares of the
            labels in training; None where every video was covered.
    """

    video_ids: list[str]
    values: Array
    label_names: list[str]
    kind: Kind
    targets: Array | None = None
    ignore: Array | None = None
    split: str = ""
    recipe_hash: str = ""
    weights_hash: str = ""
    manifest_hash: str = ""
    views: Array | None = None
    view_names: list[str] = field(default_factory=list)
    covered: Array | None = None

    def __post_init__(self) -> None:
        shape = (len(self.video_ids), len(self.label_names))
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for name in ("values", "targets", "ignore"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} must be (videos, labels) = {shape}, got {array.shape}")
        if self.covered is not None and (self.covered.shape != shape[:1] or self.covered.dtype != bool):
            raise ValueError(f"covered must be bool {shape[:1]}, got {self.covered.dtype} {self.covered.shape}")
        if self.views is not None and self.views.shape != (shape[0], len(self.view_names), shape[1]):
            raise ValueError(f"views must be {(shape[0], len(self.view_names), shape[1])}, got {self.views.shape}")
        for name in ("video_ids", "label_names"):
            if repeated := _first_repeated(getattr(self, name)):
                raise ValueError(f"{name} holds {repeated!r} more than once")
        for name in ("values", "views"):
            array = getattr(self, name)
            if array is not None and array.size and np.isnan(array.min()):
                raise ValueError(f"{name} hold a NaN; the model diverged or a file was misread")
        if self.kind == "probability" and self.values.size and not (self.values.min() >= 0 and self.values.max() <= 1):
            raise ValueError(
                f"probabilities must be in [0, 1], got {self.values.min()} to {self.values.max()}; "
                "write logits with kind='logit'"
            )

    def probabilities(self) -> Array:
        """Return (N, L) float32 in [0, 1]: the values, or the sigmoid of logits."""
        if self.kind == "probability":
            return self.values
        return np.exp(-np.logaddexp(0, -self.values.astype(np.float64))).astype(np.float32)

    def rows(self, video_ids: Sequence[str]) -> Scores:
        """Return the same scores for `video_ids` in their order.

        Raises:
            StoreError: a video is not among the scores.
        """
        at = {video: row for row, video in enumerate(self.video_ids)}
        if missing := [video for video in video_ids if video not in at]:
            raise StoreError(
                f"{len(missing)} of {len(video_ids)} videos have no scores, first {missing[0]!r}; "
                f"score the same manifest and split with every model"
            )
        index = np.array([at[video] for video in video_ids], dtype=np.int64)

        def part(array: Array | None) -> Array | None:
            return None if array is None else array[index]

        return Scores(
            video_ids=list(video_ids),
            values=self.values[index],
            label_names=self.label_names,
            kind=self.kind,
            targets=part(self.targets),
            ignore=part(self.ignore),
            split=self.split,
            recipe_hash=self.recipe_hash,
            weights_hash=self.weights_hash,
            manifest_hash=self.manifest_hash,
            views=part(self.views),
            view_names=self.view_names,
            covered=part(self.covered),
        )

    def write(self, path: Path) -> None:
        """Write one parquet file (zstd), whole or not at all."""
        columns: dict[str, pa.Array] = {"video_id": pa.array(self.video_ids, pa.string())}
        columns["scores"] = _lists(self.values, pa.float32())
        if self.targets is not None:
            columns["targets"] = _lists(self.targets, pa.uint8())
        if self.ignore is not None:
            columns["ignore"] = _lists(self.ignore, pa.uint8())
        if self.views is not None:
            width = len(self.view_names) * len(self.label_names)
            columns["views"] = _lists(self.views.reshape(len(self.video_ids), width), pa.float32())
        if self.covered is not None:
            columns["covered"] = pa.array(self.covered, pa.bool_())
        about = {
            "version": _VERSION,
            "labels": self.label_names,
            "kind": self.kind,
            "split": self.split,
            "recipe_hash": self.recipe_hash,
            "weights_hash": self.weights_hash,
            "manifest_hash": self.manifest_hash,
            "views": self.view_names,
        }
        table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(about, ensure_ascii=False).encode()})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", use_dictionary=False, write_page_checksum=True)

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read a score file.

        Raises:
            StoreError: there is no such file, it is not a score file, or its content contradicts itself.
        """
        if not path.is_file():
            raise StoreError(
                f"{path} does not exist; `reeltag evaluate` writes score files to RUN/scores/SPLIT.parquet"
            )
        try:
            table = pq.read_table(path, page_checksum_verification=True)  # parquet alone would pass a flipped bit
            about = json.loads((table.schema.metadata or {})[_KEY])
            version = about["version"]
            if version != _VERSION:
                raise StoreError(f"{path} has version {version}; this reeltag reads {_VERSION}: evaluate again")
            num_videos, num_labels, num_views = table.num_rows, len(about["labels"]), len(about["views"])
            arrays = {
                name: _matrix(table[name], num_videos, width)
                for name, width in (
                    *(("scores", num_labels), ("targets", num_labels)),
                    *(("ignore", num_labels), ("views", num_views * num_labels)),
                )
                if name in table.column_names
            }
            views, ignore = arrays.get("views"), arrays.get("ignore")
            return cls(
                video_ids=table["video_id"].to_pylist(),
                values=arrays["scores"],
                label_names=about["labels"],
                kind=about["kind"],
                targets=arrays.get("targets"),
                ignore=None if ignore is None else ignore.astype(bool),
                split=about["split"],
                recipe_hash=about["recipe_hash"],
                weights_hash=about["weights_hash"],
                manifest_hash=about["manifest_hash"],
                views=None if views is None else views.reshape(num_videos, num_views, num_labels),
                view_names=about["views"],
                covered=_flags(table["covered"]) if "covered" in table.column_names else None,
            )
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            detail = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(
                f"{path} is not a score file that can be read ({detail}); `reeltag evaluate` writes them"
            ) from error


def require_same_labels(first: Scores, second: Scores, *, names: tuple[str, str] = ("the first", "the second")) -> None:
    """Check that two score files have the same labels in the same order.

    Raises:
        StoreError: they differ; the message names the first differences.
    """
    if first.label_names == second.label_names:
        return
    only_first = [label for label in first.label_names if label not in set(second.label_names)]
    only_second = [label for label in second.label_names if label not in set(first.label_names)]
    if only_first or only_second:
        said = [
            f"only {name} has {', '.join(map(repr, only[:3]))}{f' and {len(only) - 3} more' if len(only) > 3 else ''}"
            for name, only in zip(names, (only_first, only_second), strict=True)
            if only
        ]
        what = "; ".join(said)
    else:
        at = next(
            i for i, pair in enumerate(zip(first.label_names, second.label_names, strict=True)) if len(set(pair)) > 1
        )
        what = f"column {at} is {first.label_names[at]!r} in {names[0]} and {second.label_names[at]!r} in {names[1]}"
    raise StoreError(
        f"label sets differ ({len(first.label_names)} and {len(second.label_names)} labels): {what}; "
        f"use scores of models trained on one labels.txt"
    )


def _lists(values: Array, kind: pa.DataType) -> pa.Array:
    flat = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype()).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind), values.shape[1])


def _matrix(column: pa.ChunkedArray, num_rows: int, width: int) -> Array:
    if column.null_count or not pa.types.is_fixed_size_list(column.type) or column.type.list_size != width:
        raise ValueError(f"a column is {column.type}, expected lists of {width} without gaps")
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(parts) if parts else np.empty(0, column.type.value_type.to_pandas_dtype())
    return flat.reshape(num_rows, width)


def _flags(column: pa.ChunkedArray) -> Array:
    if column.null_count or not pa.types.is_boolean(column.type):
        raise ValueError(f"`covered` is {column.type}, expected true or false without gaps")
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=bool)


def _first_repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
