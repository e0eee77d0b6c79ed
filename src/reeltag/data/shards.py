"""Packed frames: WebDataset shards of frames that are already resized, read at random by offset, never unpacked."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reeltag.data.shard_file import read_npy
from reeltag.data.shard_folder import PLACE_COLUMNS, Columns, ShardFolder

_JPEGS = b"RTJPEGS1"


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


class PackedVideos(ShardFolder):
    """The clips of a folder that `reeltag data pack` wrote, by row of its manifest; see `ShardFolder`."""

    description_name = "shards.json"
    columns = (
        "frames_offset", "frames_bytes", "packed_frames", "packed_fps", "frame_height", "frame_width", "audio_offset",
        "audio_samples",
    )  # fmt: skip
    what, verb, again = "pack", "reeltag data pack", "pack it again"

    def settings_fit(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the store is one that this version reads."""
        return settings["store"] in ("raw", "jpeg")

    def parts(self, columns: Columns) -> Sequence[tuple[NDArray[Any], NDArray[Any]]]:
        """Return where frames and sound lie."""
        heard = columns["audio_samples"] > 0
        audio_offset = np.where(heard, columns["audio_offset"], columns["offset"])
        # A clip has frames, or sound alone: neither is as wrong as bytes outside.
        sound_alone = heard & (columns["packed_frames"] == 0) & (columns["frames_bytes"] == 0)
        frames_bytes = np.where((columns["frames_bytes"] > 0) | sound_alone, columns["frames_bytes"], -1)
        return [
            (np.where(sound_alone, columns["offset"], columns["frames_offset"]), frames_bytes),
            (audio_offset, np.where(heard, 2 * columns["audio_samples"], 0)),
        ]

    def num_frames(self, row: int) -> int:
        """Return how many frames of a clip are stored; 0 for sound alone."""
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

    def frames(self, row: int, indices: Sequence[int]) -> Tensor:
        """Return uint8 (T, 3, H, W), a copy of the stored frames at `indices`, in that order, repeats allowed.

        The tensor has the memory order of a picture (channels last), in which resizing uint8 is fast.

        Raises:
            ValueError: an index outside [0, num_frames).
            StoreError: the stored frames are damaged; the message names the shard.
        """
        count = self.num_frames(row)
        self._check_frames(row, indices, count)
        start, num_bytes = int(self._columns["frames_offset"][row]), int(self._columns["frames_bytes"][row])
        view = memoryview(self._map(row))[start : start + num_bytes]
        height, width = self.size_px(row)
        try:
            if self.settings["store"] == "raw":
                stored = read_npy(view, (count, height, width, 3), np.dtype(np.uint8))
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
            stored = read_npy(view[start:], (count,), np.dtype("<i2"))
        except ValueError as error:
            raise self._damaged(row, str(error)) from error
        return torch.from_numpy(stored.astype(np.float32) / 32767)  # (N,)


def _jpeg(data: memoryview, width: int, height: int) -> NDArray[np.uint8]:
    """Return (H, W, 3); ValueError when the file holds a picture of another size, before it is decoded."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        if picture.size != (width, height) or picture.mode != "RGB":
            raise ValueError(f"a picture of {picture.size} {picture.mode}, not {(width, height)} RGB")
        return np.asarray(picture)


INDEX_COLUMNS = (*PLACE_COLUMNS, *PackedVideos.columns)
