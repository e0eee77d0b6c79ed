"""The manifest: which videos there are, which labels each carries, and what else is known about a clip."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reeltag.data.vocab import check_labels
from reeltag.errors import ManifestError
from reeltag.registry import close_name

Where = Callable[[int], str]  # from a row to the words that name it in a message: `line 7`, `row 6`

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(file|data|https?|ftp|rtsp|rtmp|concat|subfile|pipe):", re.IGNORECASE)
_SYSTEM = ("/etc", "/proc", "/sys", "/dev", "/boot")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Manifest:
    """N clips in a fixed order; make one with `build` or `read`, which check what users can get wrong.

    Attributes:
        root: the folder that relative paths start from.
        paths: N paths as written, relative to `root` or absolute.
        labels: N sorted tuples of label indices; an empty tuple is a clip that carries no label.
        label_names: L names, order = index.
        video_ids: N unique names.
        splits: N names such as `train`, `""` where a clip has none; None when no clip has one.
        groups: N names; clips of one group (one source video) never go to different splits; `""` = alone.
        start_s: N start times in seconds, NaN = from the first frame; `end_s` likewise, NaN = to the last frame.
        weights: N factors >= 0 of the loss, or None for 1 each.
        ignores: N tuples of the labels whose truth is unknown, or None.
        extra: other columns of the file, kept as they are (`data split --group COLUMN` reads them).
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    label_names: tuple[str, ...]
    video_ids: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    start_s: NDArray[np.float64] | None = None
    end_s: NDArray[np.float64] | None = None
    weights: NDArray[np.float32] | None = None
    ignores: tuple[tuple[int, ...], ...] | None = None
    extra: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        paths: Sequence[str],
        labels: Sequence[Iterable[int]],
        label_names: Iterable[str],
        *,
        root: Path,
        trusted_root: Path | None = None,
        video_ids: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        start_s: Sequence[float] | NDArray[np.float64] | None = None,
        end_s: Sequence[float] | NDArray[np.float64] | None = None,
        weights: Sequence[float] | NDArray[np.float32] | None = None,
        ignores: Sequence[Iterable[int]] | None = None,
        extra: Mapping[str, Sequence[Any]] | None = None,
        source: str = "manifest",
        where: Where | None = None,
    ) -> Manifest:
        """Return a checked manifest; `source` and `where` name the file and its rows in messages.

        Args:
            trusted_root: when given, no path may leave this folder. Otherwise relative paths may not leave `root`,
                and absolute paths may stand anywhere but in the folders of the operating system.

        Raises:
            ManifestError: no rows, columns of unequal length, an unsafe path, a label index out of range, a repeated
                video id, or a time or weight that is not possible. Up to five places are listed.
        """
        where = where or (lambda row: f"row {row}")
        names = tuple(check_labels(label_names, where=source)) if label_names else ()
        if not len(paths):
            raise ManifestError(f"{source}: no clips; a manifest needs at least one row")
        columns = {"labels": labels, "video_id": video_ids, "split": splits, "group": groups, "start_s": start_s,
                   "end_s": end_s, "weight": weights, "ignore": ignores, **(extra or {})}  # fmt: skip
        for name, column in columns.items():
            if column is not None and len(column) != len(paths):
                raise ManifestError(f"{source}: {len(column)} values of {name!r} for {len(paths)} paths")
        refuse(source, where, path_problems(paths, root, trusted_root))
        indices = _checked_indices(labels, len(names), source, where)
        starts, ends = _checked_times(start_s, end_s, source, where)
        ids = tuple(video_ids) if video_ids is not None else default_ids(paths, starts, ends)
        refuse(source, where, _repeats(ids, where))
        return cls(
            root=Path(root),
            paths=tuple(paths),
            labels=indices,
            label_names=names,
            video_ids=ids,
            splits=_or_none(splits),
            groups=_or_none(groups),
            start_s=starts,
            end_s=ends,
            weights=_checked_weights(weights, source, where),
            ignores=None if ignores is None else _checked_indices(ignores, len(names), source, where),
            extra={name: tuple(column) for name, column in (extra or {}).items()},
        )

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        root: Path | None = None,
        labels: Sequence[str] | None = None,
        needs_labels: bool = True,
    ) -> Manifest:
        """Read a parquet or csv manifest; see `reeltag.data.manifest_files.read_manifest`."""
        from reeltag.data.manifest_files import read_manifest

        return read_manifest(Path(path), root=root, labels=labels, needs_labels=needs_labels)

    def write(self, path: str | Path) -> None:
        """Write parquet or csv by suffix, and `labels.txt` beside it, atomically; paths become relative to the file."""
        from reeltag.data.manifest_files import write_manifest

        write_manifest(self, Path(path))

    def __len__(self) -> int:
        return len(self.paths)

    def video_path(self, row: int) -> Path:
        """Return where the video of a row lies; nothing is checked on disk."""
        return self.root / self.paths[row]

    def targets(self) -> NDArray[np.float32]:
        """Return (N, L): 1 where a clip carries a label, else 0."""
        return self._dense(self.labels).astype(np.float32)

    def ignore_mask(self) -> NDArray[np.bool_]:
        """Return (N, L): True where the truth of a label is unknown."""
        return self._dense(self.ignores or ((),) * len(self))

    def _dense(self, rows: tuple[tuple[int, ...], ...]) -> NDArray[np.bool_]:
        dense = np.zeros((len(rows), len(self.label_names)), dtype=bool)
        counts = [len(row) for row in rows]
        dense[np.repeat(np.arange(len(rows)), counts), [index for row in rows for index in row]] = True
        return dense

    @property
    def split_counts(self) -> dict[str, int]:
        """Clips by split, `""` for those without."""
        return dict(sorted(Counter(self.splits or ("",) * len(self)).items()))

    def select(self, split: str) -> Manifest:
        """Return the clips of one split, in the same order.

        Raises:
            ManifestError: no clip has this split.
        """
        rows = [row for row, name in enumerate(self.splits or ()) if name == split]
        if not rows:
            known = [name for name in self.split_counts if name]
            found = f"It has {', '.join(known)}." if known else "It has none; `reeltag data split` makes them."
            raise ManifestError(f"No clip of the manifest is in split {split!r}. {close_name(split, known)}{found}")
        return self.take(rows)

    def take(self, rows: Sequence[int]) -> Manifest:
        """Return the clips at `rows`, in that order."""

        def of(column: tuple[Any, ...] | None) -> Any:
            return None if column is None else tuple(column[row] for row in rows)

        def numbers(column: NDArray[Any] | None) -> Any:
            return None if column is None else column[np.asarray(rows, dtype=np.int64)]

        return replace(
            self, paths=of(self.paths), labels=of(self.labels), video_ids=of(self.video_ids), splits=of(self.splits),
            groups=of(self.groups), start_s=numbers(self.start_s), end_s=numbers(self.end_s),
            weights=numbers(self.weights), ignores=of(self.ignores),
            extra={name: of(column) for name, column in self.extra.items()},
        )  # fmt: skip

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content: ids, labels, label names, split, group, times, weights and unknown labels, in order.

        Paths and extra columns are left out, so moving a folder, packing it or changing csv for parquet keeps it.
        """
        digest = hashlib.sha256(json.dumps(["reeltag manifest 1", self.label_names]).encode())
        times = [None if c is None else [repr(float(v)) for v in c] for c in (self.start_s, self.end_s, self.weights)]
        for row, video_id in enumerate(self.video_ids):
            line = [
                video_id,
                self.labels[row],
                self.splits[row] if self.splits else "",
                self.groups[row] if self.groups else "",
                *(column[row] if column else "" for column in times),
                self.ignores[row] if self.ignores else (),
            ]
            digest.update(json.dumps(line).encode())
        return digest.hexdigest()


def path_problems(paths: Sequence[str], root: Path, trusted_root: Path | None) -> Iterable[tuple[int, str]]:
    """Yield (row, words) for each path that names no file this manifest may name."""
    allowed = os.path.abspath(trusted_root if trusted_root is not None else root)
    base = os.path.abspath(root)
    for row, path in enumerate(paths):
        if not path or "\0" in path:
            yield row, f"path {path!r} is not a file name"
        elif _URL.match(path):
            yield row, f"path {path!r} is an address; download the video and name the file"
        elif os.path.isabs(path) and trusted_root is None:
            if _inside(os.path.normpath(path), _SYSTEM):
                yield row, f"path {path!r} lies in a folder of the operating system; move the video"
        elif (os.path.isabs(path) or ".." in path) and not _inside(
            os.path.normpath(os.path.join(base, path)), (allowed,)
        ):
            yield (
                row,
                f"path {path!r} leaves {allowed} (name the folder of the videos as `root`, or write absolute paths)",
            )


def _inside(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def refuse(source: str, where: Where, problems: Iterable[tuple[int, str]]) -> None:
    """Raise ManifestError with the first five of the (row, words) `problems`, if there is one."""
    found = list(problems)
    if found:
        shown = "; ".join(f"{where(row)}: {words}" for row, words in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ManifestError(f"{source}, {shown}{more}")


def _or_none(column: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(column) if column is not None and any(column) else None


def _checked_indices(
    rows: Sequence[Iterable[int]], num_labels: int, source: str, where: Where
) -> tuple[tuple[int, ...], ...]:
    indices = tuple(tuple(sorted({int(index) for index in row})) for row in rows)
    last = num_labels - 1
    wrong = (
        (n, row[0] if row[0] < 0 else row[-1])
        for n, row in enumerate(indices)
        if row and (row[0] < 0 or row[-1] > last)
    )
    words = "label index {} is not in 0..{}; is the label list the right one?"
    refuse(source, where, ((n, words.format(index, last)) for n, index in wrong))
    return indices


def _checked_times(start_s: Any, end_s: Any, source: str, where: Where) -> tuple[Any, Any]:
    starts, ends = (None if c is None else np.asarray(c, dtype=np.float64) for c in (start_s, end_s))
    starts, ends = (None if c is None or np.isnan(c).all() else c for c in (starts, ends))
    if starts is not None:
        bad = np.flatnonzero((starts < 0) | np.isinf(starts))
        refuse(source, where, ((int(n), f"start_s {starts[n]} must be >= 0 and finite") for n in bad))
    if ends is not None:
        first = np.nan_to_num(starts) if starts is not None else np.zeros(len(ends))
        bad = np.flatnonzero((ends <= first) | np.isinf(ends))
        refuse(source, where, ((int(n), f"end_s {ends[n]} must be above start_s {first[n]} and finite") for n in bad))
    return starts, ends


def _checked_weights(weights: Any, source: str, where: Where) -> NDArray[np.float32] | None:
    if weights is None:
        return None
    values = np.nan_to_num(np.asarray(weights, dtype=np.float32), nan=1.0, posinf=np.inf, neginf=-np.inf)
    bad = np.flatnonzero((values < 0) | np.isinf(values))
    refuse(source, where, ((int(n), f"weight {values[n]} must be >= 0 and finite") for n in bad))
    return None if (values == 1).all() else values


def _repeats(ids: Sequence[str], where: Where) -> Iterable[tuple[int, str]]:
    first: dict[str, int] = {}
    for row, video_id in enumerate(ids):
        if not video_id:
            yield row, "video_id is empty"
        elif first.setdefault(video_id, row) != row:
            yield row, f"video_id {video_id!r} is that of {where(first[video_id])} too; every clip needs its own"


def default_ids(paths: Sequence[str], start_s: Any, end_s: Any) -> tuple[str, ...]:
    """Return an id per clip: the path without suffix, with `@start-end` for a part of a video.

    Files that differ in suffix alone keep it. Ids that are still equal are one clip listed twice, an error of `build`.
    """
    stems = [os.path.splitext(path)[0].removeprefix("./") for path in paths]
    files_of = Counter(stem for stem, _ in set(zip(stems, paths, strict=True)))
    ids = []
    for row, (stem, path) in enumerate(zip(stems, paths, strict=True)):
        name = path if files_of[stem] > 1 else stem
        start, end = (None if c is None or np.isnan(c[row]) else float(c[row]) for c in (start_s, end_s))
        part = f"@{0.0 if start is None else start:g}-{'' if end is None else f'{end:g}'}"
        ids.append(name if start is None and end is None else name + part)
    return tuple(ids)
