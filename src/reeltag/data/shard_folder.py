"""Reading a folder of shards and its index: what packed frames and stored flow share."""

from __future__ import annotations

import json
import mmap
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reeltag.data.manifest import Manifest
from reeltag.data.shard_file import BLOCK_BYTES, scan_shard
from reeltag.errors import ManifestError, StoreError
from reeltag.store.atomic import sha256_of

PLACE_COLUMNS = ("shard", "offset", "size")  # of a sample, whatever it holds
_SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
Columns = dict[str, NDArray[Any]]


class ShardFolder(ABC):
    """The samples of a folder that `shard_job` wrote, by row of its manifest.

    Reading maps the shards into memory and copies what is asked for; nothing else is read. Objects can be sent to other
    processes, which map the shards themselves.

    Args:
        folder: holds the description, `manifest.parquet`, `labels.txt` and the shards.

    Attributes:
        settings: how the samples were made.
        manifest: the clips that could be read.
        description_name: the file that is written last, with the settings and the SHA-256 of each shard.
        columns: of the manifest, besides `PLACE_COLUMNS`.
        what, verb, again: words of messages: what the folder holds, who writes it, and the cure for damage.

    Raises:
        StoreError: a file is missing, or a shard has not the size that was written.
    """

    description_name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    what: ClassVar[str]
    verb: ClassVar[str]
    again: ClassVar[str]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        description = self._description()
        self.settings: dict[str, Any] = description["settings"]
        self._sha256 = {shard["name"]: str(shard["sha256"]) for shard in description["shards"]}
        self._sizes = {shard["name"]: int(shard["bytes"]) for shard in description["shards"]}
        for name, num_bytes in self._sizes.items():
            self._check_size(name, num_bytes)
        try:
            self.manifest = Manifest.read(self.folder / "manifest.parquet")
        except ManifestError as error:
            raise StoreError(f"{error}; the {self.what} is not whole, {self.again}") from error
        self._columns = self._checked_index()
        self._maps: dict[str, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.manifest)

    @abstractmethod
    def settings_fit(self, settings: Mapping[str, Any]) -> bool:
        """Return whether this version reads what these settings made; KeyError for settings of something else."""

    @abstractmethod
    def parts(self, columns: Columns) -> Sequence[tuple[NDArray[Any], NDArray[Any]]]:
        """Return the first byte and the bytes of each part of the samples, which must lie inside them."""

    def digest(self, row: int) -> str:
        """Return the SHA-256 of the shard that holds a clip, as it was written."""
        return self._sha256[str(self._columns["shard"][row])]

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of each shard: what the folder holds."""
        return tuple(self._sha256.values())

    def info(self, row: int) -> dict[str, Any]:
        """Return the json of a sample: id, labels, times_s of its frames, the size and rate of the video."""
        offset = int(self._columns["offset"][row])
        view = self._map(row)
        header = tarfile.TarInfo.frombuf(view[offset : offset + BLOCK_BYTES], "utf-8", "strict")
        start = offset + BLOCK_BYTES
        value = json.loads(view[start : start + header.size])
        if not isinstance(value, dict):
            raise self._damaged(row, "its json is no object")
        return value

    def verify(self) -> None:
        """Read every shard and compare it with the SHA-256 that was written.

        Raises:
            StoreError: the first shard that differs, or that holds anything but plain files.
        """
        for name, expected in self._sha256.items():
            self._check_size(name, self._sizes[name])
            found = sha256_of(self.folder / name)
            if found != expected:
                raise StoreError(f"{self.folder / name}: SHA-256 {found[:12]} is not {expected[:12]}; {self.again}")
            scan_shard(self.folder / name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a mapping cannot travel to another process

    def _check_frames(self, row: int, indices: Sequence[int], count: int) -> None:
        if not len(indices) or min(indices) < 0 or max(indices) >= count:
            raise ValueError(f"frames {list(indices)} of clip {row}: give numbers in [0, {count})")

    def _description(self) -> dict[str, Any]:
        path = self.folder / self.description_name
        if not path.is_file():
            raise StoreError(
                f"{path}: not there, so this is no finished {self.what}; run `{self.verb}` (again, if it was stopped)"
            )
        try:
            value = json.loads(path.read_bytes())
            good = self.settings_fit(value["settings"]) and all(
                _SHARD_NAME.fullmatch(shard["name"]) and int(shard["bytes"]) > 0 and shard["sha256"]
                for shard in value["shards"]
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{path}: damaged ({error}); {self.again}") from error
        if not good or not isinstance(value, dict):
            raise StoreError(f"{path}: holds a shard name or settings that this version does not write; {self.again}")
        return value

    def _checked_index(self) -> Columns:
        extra = self.manifest.extra
        names = (*PLACE_COLUMNS, *self.columns)
        missing = [name for name in names if name not in extra]
        if missing:
            raise StoreError(f"{self.folder}/manifest.parquet: no column {missing[0]!r}; {self.again}")
        columns = {name: np.asarray(extra[name]) for name in names}
        unknown = sorted(set(columns["shard"].tolist()) - self._sizes.keys())
        if unknown:
            raise StoreError(
                f"{self.folder}/manifest.parquet: names the shard {unknown[0]!r}, which {self.description_name} lacks"
            )
        ends = np.array([self._sizes[name] for name in columns["shard"].tolist()])
        first, whole = columns["offset"], columns["offset"] + columns["size"]
        inside = (first >= 0) & (columns["size"] >= BLOCK_BYTES) & (whole <= ends)
        for start, num_bytes in self.parts(columns):
            inside &= (num_bytes >= 0) & (start >= first) & (start + num_bytes <= whole)
        if not inside.all():
            row = int(np.flatnonzero(~inside)[0])
            raise StoreError(f"{self.folder / columns['shard'][row]}: row {row} points outside the shard; {self.again}")
        return columns

    def _check_size(self, name: str, num_bytes: int) -> None:
        path = self.folder / name
        if not path.is_file():
            raise StoreError(f"{path}: this shard is missing; {self.again}, or copy it again")
        found = path.stat().st_size
        if found != num_bytes:
            raise StoreError(
                f"{path}: {found} bytes where {num_bytes} were written; the shard is damaged: {self.again}, or copy it "
                "again"
            )

    def _map(self, row: int) -> mmap.mmap:
        name = str(self._columns["shard"][row])
        if name not in self._maps:
            with (self.folder / name).open("rb") as file:
                self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[name]

    def _damaged(self, row: int, words: str) -> StoreError:
        shard = self.folder / str(self._columns["shard"][row])
        return StoreError(f"{shard}: clip {self.manifest.video_ids[row]!r} is damaged ({words}); {self.again}")
