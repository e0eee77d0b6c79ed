"""Packed shards: WebDataset tars of frames that are already resized, read at random by offset, never unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import re
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError, StoreError
from reeltag.store.atomic import sha256_of

BLOCK_BYTES = 512
INDEX_COLUMNS = (
    "shard", "offset", "size", "frames_offset", "frames_bytes", "packed_frames", "packed_fps", "frame_height",
    "frame_width", "audio_offset", "audio_samples",
)  # fmt: skip
_JPEGS = b"RTJPEGS1"
_SHARD_NAME = re.compile(r"shard-[0-9]{6}\.tar")
_MAX_MEMBERS = 10_000_000


@dataclass(frozen=True)
class Member:
    """One file inside a tar: `offset` is where its bytes start, both counted in bytes."""

    name: str
    offset: int
    num_bytes: int


class ShardWriter:
    """Writes one tar file member by member and knows its SHA-256 at the end; equal input gives equal bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Append a member and return the offset of its first byte."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        start = self.position
        self._write(data)
        self._write(bytes(-len(data) % BLOCK_BYTES))
        return start

    def finish(self) -> str:
        """Write the end of the archive, sync it to disk and return the SHA-256 as hex."""
        self._write(bytes(2 * BLOCK_BYTES))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.position += len(data)


def join_jpegs(pictures: Sequence[bytes]) -> bytes:
    """Return one member that holds JPEG files: magic, count, a table of count + 1 offsets (uint64), the files."""
    table = len(_JPEGS) + 4 + 8 * (len(pictures) + 1)
    ends = np.cumsum([table, *map(len, pictures)], dtype=np.uint64)
    return b"".join([_JPEGS, struct.pack("<I", len(pictures)), ends.astype("<u8").tobytes(), *pictures])


def split_jpegs(member: memoryview) -> list[memoryview]:
    """Return the JPEG files of a member written by `join_jpegs`; ValueError when the table does not fit the member."""
    head = len(_JPEGS) + 4
    if bytes(member[: len(_JPEGS)]) != _JPEGS or len(member) < head:
        raise ValueError("no table of JPEG files")
    (count,) = struct.unpack_from("<I", member, len(_JPEGS))
    if head + 8 * (count + 1) > len(member):
        raise ValueError(f"a table of {count} JPEG files is longer than the member")
    ends = np.frombuffer(member, "<u8", count + 1, head).tolist()
    if ends[0] != head + 8 * (count + 1) or ends[-1] > len(member) or any(a > b for a, b in pairwise(ends)):
        raise ValueError("the table of JPEG files points outside the member")
    return [member[a:b] for a, b in pairwise(ends)]


def scan_shard(path: Path) -> list[Member]:
    """List the members of a tar after checking that each is a plain file with a safe name that lies inside the archive.

    Raises:
        StoreError: not a plain tar, empty, truncated, or a member that is a link, device, sparse or listed twice, or
            whose name leaves the folder. Nothing is ever unpacked.
    """
    num_bytes = path.stat().st_size
    members: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise StoreError(f"{path}: member {info.name!r} is no plain file; a shard holds plain files alone")
                parts = re.split(r"[/\\]", info.name)
                if info.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in info.name:
                    raise StoreError(f"{path}: member {info.name!r} leaves the folder; this is not a shard to trust")
                if info.offset_data + info.size > num_bytes:
                    raise StoreError(
                        f"{path}: member {info.name!r} ends at byte {info.offset_data + info.size} of {num_bytes}; "
                        "the shard is truncated or lies about sizes"
                    )
                if info.name in members:
                    raise StoreError(f"{path}: member {info.name!r} occurs twice")
                if len(members) >= _MAX_MEMBERS:
                    raise StoreError(f"{path}: more than {_MAX_MEMBERS} members; split it into smaller shards")
                members[info.name] = Member(info.name, info.offset_data, info.size)
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{path}: not a plain tar that can be read ({error}); pack or download it again") from error
    if not members:
        raise StoreError(f"{path}: no samples in this tar; pack or download it again")
    return list(members.values())


class PackedVideos:
    """The clips of a folder that `reeltag data pack` wrote, by row of its manifest.

    Reading maps the shards into memory and copies the frames asked for; nothing else is read. Objects can be sent to
    other processes, which map the shards themselves.

    Args:
        folder: holds `shards.json`, `manifest.parquet`, `labels.txt` and the shards.

    Raises:
        StoreError: a file is missing, or a shard has not the size that was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        description = _description(self.folder)
        self.settings: dict[str, Any] = description["settings"]
        self._sha256 = {shard["name"]: str(shard["sha256"]) for shard in description["shards"]}
        self._sizes = {shard["name"]: int(shard["bytes"]) for shard in description["shards"]}
        for name, num_bytes in self._sizes.items():
            self._check_size(name, num_bytes)
        try:
            self.manifest = Manifest.read(self.folder / "manifest.parquet")
        except ManifestError as error:
            raise StoreError(f"{error}; the pack is not whole, pack it again") from error
        self._columns = self._checked_index()
        self._maps: dict[str, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.manifest)

    def num_frames(self, row: int) -> int:
        """Return how many frames of a clip are stored."""
        return int(self._columns["packed_frames"][row])

    def fps(self, row: int) -> float:
        """Return the stored frames per second: that of the video unless packing thinned the frames out."""
        return float(self._columns["packed_fps"][row])

    def size_px(self, row: int) -> tuple[int, int]:
        """Return (height, width) of the stored frames."""
        return int(self._columns["frame_height"][row]), int(self._columns["frame_width"][row])

    def num_samples(self, row: int) -> int:
        """Return how many samples of sound are stored, 0 without a track."""
        return max(0, int(self._columns["audio_samples"][row]))

    def digest(self, row: int) -> str:
        """Return the SHA-256 of the shard that holds a clip, as it was written."""
        return self._sha256[str(self._columns["shard"][row])]

    def info(self, row: int) -> dict[str, Any]:
        """Return what was stored about a clip: id, labels, times_s of its frames, the size and rate of the video."""
        offset = int(self._columns["offset"][row])
        view = self._map(row)
        header = tarfile.TarInfo.frombuf(view[offset : offset + BLOCK_BYTES], "utf-8", "strict")
        start = offset + BLOCK_BYTES
        value = json.loads(view[start : start + header.size])
        if not isinstance(value, dict):
            raise self._damaged(row, "its json is no object")
        return value

    def frames(self, row: int, indices: Sequence[int]) -> Tensor:
        """Return uint8 (T, 3, H, W), a copy of the stored frames at `indices`, in that order, repeats allowed.

        The tensor has the memory order of a picture (channels last), in which resizing uint8 is fast.

        Raises:
            ValueError: an index outside [0, num_frames).
            StoreError: the stored frames are damaged; the message names the shard.
        """
        count = self.num_frames(row)
        if not len(indices) or min(indices) < 0 or max(indices) >= count:
            raise ValueError(f"frames {list(indices)} of clip {row}: give numbers in [0, {count})")
        start, num_bytes = int(self._columns["frames_offset"][row]), int(self._columns["frames_bytes"][row])
        view = memoryview(self._map(row))[start : start + num_bytes]
        height, width = self.size_px(row)
        try:
            if self.settings["store"] == "raw":
                stored = _npy(view, (count, height, width, 3), np.dtype(np.uint8))
                return torch.from_numpy(stored[list(indices)]).permute(0, 3, 1, 2)  # (T, 3, H, W)
            pictures = split_jpegs(view)
            frames = np.stack([_jpeg(pictures[index], width, height) for index in indices])
        except (ValueError, RuntimeError, IndexError, OSError, SyntaxError) as error:
            raise self._damaged(row, str(error)) from error
        return torch.from_numpy(frames).permute(0, 3, 1, 2)  # (T, 3, H, W)

    def audio(self, row: int) -> Tensor | None:
        """Return the sound track as float32 (N,) in [-1, 1] at `settings["audio_rate_hz"]`, or None without one."""
        count = int(self._columns["audio_samples"][row])
        if count <= 0:
            return None
        start = int(self._columns["audio_offset"][row])
        view = memoryview(self._map(row))
        try:
            stored = _npy(view[start:], (count,), np.dtype("<i2"))
        except ValueError as error:
            raise self._damaged(row, str(error)) from error
        return torch.from_numpy(stored.astype(np.float32) / 32767)  # (N,)

    def verify(self) -> None:
        """Read every shard and compare it with the SHA-256 that was written.

        Raises:
            StoreError: the first shard that differs, or that holds anything but plain files.
        """
        for name, expected in self._sha256.items():
            self._check_size(name, self._sizes[name])
            found = sha256_of(self.folder / name)
            if found != expected:
                raise StoreError(f"{self.folder / name}: SHA-256 {found[:12]} is not {expected[:12]}; pack it again")
            scan_shard(self.folder / name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a mapping cannot travel to another process

    def _checked_index(self) -> dict[str, NDArray[Any]]:
        extra = self.manifest.extra
        missing = [name for name in INDEX_COLUMNS if name not in extra]
        if missing:
            raise StoreError(f"{self.folder}/manifest.parquet: no column {missing[0]!r}; pack it again")
        columns = {name: np.asarray(extra[name]) for name in INDEX_COLUMNS}
        unknown = sorted(set(columns["shard"].tolist()) - self._sizes.keys())
        if unknown:
            raise StoreError(f"{self.folder}/manifest.parquet: names the shard {unknown[0]!r}, which shards.json lacks")
        ends = np.array([self._sizes[name] for name in columns["shard"].tolist()])
        whole = columns["offset"] + columns["size"]
        inside = (columns["offset"] >= 0) & (columns["size"] >= BLOCK_BYTES) & (whole <= ends)
        frames_end = columns["frames_offset"] + columns["frames_bytes"]
        sound_alone = (columns["packed_frames"] == 0) & (columns["frames_bytes"] == 0) & (columns["audio_samples"] > 0)
        inside &= sound_alone | (
            (columns["frames_offset"] >= columns["offset"]) & (frames_end <= whole) & (columns["frames_bytes"] > 0)
        )
        inside &= (columns["audio_samples"] <= 0) | (
            (columns["audio_offset"] >= columns["offset"])
            & (columns["audio_offset"] + 2 * columns["audio_samples"] <= whole)
        )
        if not inside.all():
            row = int(np.flatnonzero(~inside)[0])
            raise StoreError(
                f"{self.folder / columns['shard'][row]}: row {row} points outside the shard; pack it again"
            )
        return columns

    def _check_size(self, name: str, num_bytes: int) -> None:
        path = self.folder / name
        if not path.is_file():
            raise StoreError(f"{path}: this shard is missing; pack or copy it again")
        found = path.stat().st_size
        if found != num_bytes:
            raise StoreError(
                f"{path}: {found} bytes where {num_bytes} were written; the shard is damaged, copy it again"
            )

    def _map(self, row: int) -> mmap.mmap:
        name = str(self._columns["shard"][row])
        if name not in self._maps:
            with (self.folder / name).open("rb") as file:
                self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[name]

    def _damaged(self, row: int, words: str) -> StoreError:
        shard = self.folder / str(self._columns["shard"][row])
        return StoreError(f"{shard}: clip {self.manifest.video_ids[row]!r} is damaged ({words}); pack it again")


def _jpeg(data: memoryview, width: int, height: int) -> NDArray[np.uint8]:
    """Return (H, W, 3); ValueError when the file holds a picture of another size, before it is decoded."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        if picture.size != (width, height) or picture.mode != "RGB":
            raise ValueError(f"a picture of {picture.size} {picture.mode}, not {(width, height)} RGB")
        return np.asarray(picture)


def _npy(view: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array of a .npy member without copying it; ValueError unless it has exactly this shape and type."""
    if bytes(view[:8]) != b"\x93NUMPY\x01\x00":
        raise ValueError("no array of format 1.0")
    (length,) = struct.unpack_from("<H", view, 8)
    # Compared with the one header that such an array has: nothing in the file is parsed, let alone unpickled.
    if bytes(view[: 10 + length]) != npy_header(shape, dtype):
        raise ValueError(f"not an array of {shape} {dtype}")
    count = int(np.prod(shape))
    if 10 + length + count * dtype.itemsize > len(view):
        raise ValueError("the array is cut off")
    return np.frombuffer(view, dtype, count, 10 + length).reshape(shape)


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return the header of a .npy file, format 1.0, in C order; the data begins at a multiple of 64 bytes."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    padding = -(10 + len(text) + 1) % 64
    body = (text + " " * padding + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "shards.json"
    if not path.is_file():
        raise StoreError(
            f"{path}: not there, so this is no finished pack; run `reeltag data pack` (again, if it was stopped)"
        )
    try:
        value = json.loads(path.read_bytes())
        shards = value["shards"]
        good = value["settings"]["store"] in ("raw", "jpeg") and all(
            _SHARD_NAME.fullmatch(shard["name"]) and int(shard["bytes"]) > 0 and shard["sha256"] for shard in shards
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: damaged ({error}); pack it again") from error
    if not good or not isinstance(value, dict):
        raise StoreError(f"{path}: holds a shard name or a store that this version does not write; pack it again")
    return value
