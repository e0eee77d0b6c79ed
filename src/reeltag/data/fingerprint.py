"""What the audit learns from one file, and which files look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reeltag.errors import MediaError
from reeltag.media import Sound, open_media
from reeltag.store.atomic import sha256_of

SIDE_PX = 16
_AT = (0.1, 0.5, 0.9)  # of the video: where pictures are taken
_BANDS = 16
_MOST_BITS = _BANDS - 1  # two prints that differ in fewer bits than there are bands agree in one band
_MOST_LEVELS = 3.0  # mean difference of the small pictures, of 255; half the size at crf 32 costs 1.6 to 2.2
_FLAT_LEVELS = 4.0
_MARGIN_LEVELS = 3.0  # so that an even surface gives the same bits whatever the noise
_LARGEST_BUCKET = 200
_LISTEN_HZ = 8000


@dataclass(frozen=True)
class Look:
    """One file as the audit saw it.

    Attributes:
        path: absolute.
        reason, message: why it cannot be read; empty when it can.
        num_bytes, sha256: of the file; 0 and empty when it cannot be read.
        num_frames: 0 for a file of sound alone.
        pictures: (3, 16, 16) grey levels at 10, 50 and 90 % of the video; None for sound.
    """

    path: str
    reason: str = ""
    message: str = ""
    num_bytes: int = 0
    sha256: str = ""
    num_frames: int = 0
    duration_s: float = 0.0
    has_audio: bool = False
    damaged: bool = False
    pictures: NDArray[np.uint8] | None = None


def look_at(path: str) -> Look:
    """Open one file, decode three frames, or its sound where it has no pictures, and hash its bytes.

    A failure is part of the result.
    """
    try:
        with open_media(path) as video:
            if isinstance(video, Sound):
                seconds = len(video.audio(_LISTEN_HZ)) / _LISTEN_HZ
                size, digest = Path(path).stat().st_size, sha256_of(Path(path))
                return Look(path, num_bytes=size, sha256=digest, duration_s=seconds, has_audio=True)
            indices = [int(share * (video.num_frames - 1)) for share in _AT]
            frames = video.frames_at(indices).float()  # (3, 3, H, W)
            weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            grey = (frames * weights).sum(1, keepdim=True)  # (3, 1, H, W)
            small = torch.nn.functional.interpolate(grey, (SIDE_PX, SIDE_PX), mode="area")[:, 0]  # (3, 16, 16)
            return Look(
                path, num_bytes=Path(path).stat().st_size, sha256=sha256_of(Path(path)), num_frames=video.num_frames,
                duration_s=video.duration_s, has_audio=video.has_audio, damaged=video.damaged,
                pictures=small.round().clamp(0, 255).byte().numpy(),
            )  # fmt: skip
    except MediaError as error:
        return Look(path, reason=error.reason, message=error.detail)
    except OSError as error:  # the file went away between two looks
        return Look(path, reason="not_found", message=str(error))


def crashed_look(path: str) -> Look:
    """Return the look of a file that ended the process that read it."""
    return Look(path, reason="crashed", message="decoding ended its process; replace the file")


def same_bytes(looks: Sequence[Look]) -> list[list[int]]:
    """Return groups of two or more readable files with equal bytes, as indices into `looks`."""
    return clusters(
        len(looks), _pairs_by(((look.num_bytes, look.sha256), n) for n, look in enumerate(looks) if not look.reason)
    )


def near_duplicates(looks: Sequence[Look]) -> list[list[int]]:
    """Return groups of two or more files that show the same pictures: re-encoded, resized or cut by a frame.

    Candidates agree in at least one of 16 parts of a 192-bit print (is a cell brighter than its right neighbour?, three
    pictures of 8 x 8). They are near when the prints differ in at most 15 bits, the small grey pictures in at most 3 of
    255 levels on average, and the lengths in at most one frame. Videos without any texture are left out. Clips of a
    fixed camera in which little moves also count as near: they are as good as copies when one is used to test.
    """
    usable = [
        n for n, look in enumerate(looks)
        if look.pictures is not None and look.pictures.reshape(3, -1).std(1).min() >= _FLAT_LEVELS
    ]  # fmt: skip
    if len(usable) < 2:
        return []
    pictures = np.stack([np.asarray(looks[n].pictures) for n in usable]).astype(np.float32)  # (N, 3, 16, 16)
    cells = pictures.reshape(-1, 3, 8, 2, 16).mean(3)[..., ::2]  # (N, 3, 8, 8) left columns
    right = pictures.reshape(-1, 3, 8, 2, 16).mean(3)[..., 1::2]
    bits = (cells > right + _MARGIN_LEVELS).reshape(len(usable), -1)  # (N, 192)
    bands = np.packbits(bits.reshape(len(usable), _BANDS, -1), axis=2)
    keyed = (((band, bands[n, band].tobytes()), n) for n in range(len(usable)) for band in range(_BANDS))
    durations = np.array([looks[n].duration_s for n in usable])
    frame_s = durations / np.array([looks[n].num_frames for n in usable])
    near = []
    for a, b in set(_pairs_by(keyed)):
        if (
            abs(durations[a] - durations[b]) <= 1.01 * max(frame_s[a], frame_s[b])
            and (bits[a] != bits[b]).sum() <= _MOST_BITS
            and np.abs(pictures[a] - pictures[b]).mean() <= _MOST_LEVELS
        ):
            near.append((usable[a], usable[b]))
    return clusters(len(looks), near)


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the connected groups of two or more of `count` things, each sorted, in order of their first member."""
    parent = list(range(count))

    def find(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for a, b in pairs:
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    groups = defaultdict(list)
    for n in range(count):
        groups[find(n)].append(n)
    return [group for _, group in sorted(groups.items()) if len(group) > 1]


def _pairs_by(keyed: Iterable[tuple[Hashable, int]]) -> Iterable[tuple[int, int]]:
    """Yield pairs of things with one key: all pairs of a small bucket, neighbours alone of a large one."""
    buckets = defaultdict(list)
    for key, n in keyed:
        buckets[key].append(n)
    for members in buckets.values():
        if len(members) <= _LARGEST_BUCKET:
            yield from combinations(members, 2)
        else:
            yield from pairwise(members)
