"""The flow of one clip: which pairs of frames, at which size, and the members of a stored sample."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reeltag.data.pack_clip import Clip, choose_frames, evenly, shrink, shrunk_size
from reeltag.data.shard_file import npy_header
from reeltag.data.shard_job import StoredClip
from reeltag.data.shards import PackedVideos
from reeltag.errors import MediaError
from reeltag.media import open_video
from reeltag.media.flow import FlowFunction, FlowMethod, compute_flow, flow_image, pairs_of, quantise, resize_flow

_CHUNK_BYTES, _CHUNK_FRAMES = 256 << 20, 256


@dataclass(frozen=True)
class FlowSettings:
    """How flow is made and stored; equal settings and an equal manifest give equal bytes.

    Attributes:
        method: `tvl1`, `dis` (see `reeltag.media.flow`) or `raft`.
        step: flow at a frame leads to the frame this many later.
        fps: a step is 1 / fps long. Of a file, the frames on the screen at k / fps are taken first, all of them where
            it has fewer a second. Packed frames are all kept, and a step is the nearest whole number of them.
        max_frames: keep the flow of this many of those frames, evenly spaced; each still leads to the frame `step`
            later, kept or not. Not for packed frames, which are chosen already.
        bound_px: flow beyond it, in pixels of the stored size, is clipped.
        form: `quantised`, 2 channels; or `image`, with a third channel of zeros.
        short_side_px: of the stored field, never enlarged.
        compute_px: short side of the frames that flow is computed on, never enlarged; None means `short_side_px`.
        weights: SHA-256 of the weights of a network.
    """

    method: Literal["tvl1", "dis", "raft"] = "tvl1"
    step: int = 1
    fps: float | None = None
    max_frames: int | None = None
    bound_px: float = 20.0
    form: Literal["quantised", "image"] = "quantised"
    short_side_px: int = 128
    compute_px: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.method not in ("tvl1", "dis", "raft"):
            raise ValueError(f"method {self.method!r} is not 'tvl1', 'dis' or 'raft'")
        if self.form not in ("quantised", "image"):
            raise ValueError(f"form {self.form!r} is neither 'quantised' nor 'image'")
        for name in ("step", "fps", "max_frames", "bound_px", "short_side_px", "compute_px"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @property
    def channels(self) -> int:
        """C of a stored field."""
        return 3 if self.form == "image" else 2

    def stored(self, flow: Tensor) -> Tensor:
        """Return float (P, 2, H, W) as the bytes that are kept, uint8 (P, C, H, W)."""
        return flow_image(flow, self.bound_px) if self.form == "image" else quantise(flow, self.bound_px)


@dataclass(frozen=True)
class PackedClip:
    """What a worker is told of packed frames: the folder, its content (a digest), and the row in it."""

    row: int
    folder: str
    content: str


@dataclass(frozen=True)
class _Track:
    """The frames that pairs are made of: their times in the clip, their numbers in the video, and how to read them."""

    times_s: NDArray[np.float64]
    numbers: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], Tensor]
    size: tuple[int, int]


def encode_flow(clip: Clip | PackedClip, settings: FlowSettings, function: FlowFunction | None = None) -> StoredClip:
    """Make and encode the flow of one clip; a file that cannot be read is a result, a damaged pack is a StoreError.

    Args:
        clip: a part of a file, or packed frames.
        settings: see `FlowSettings`.
        function: computes the flow in place of `settings.method`.
    """
    method = function or cast(FlowMethod, settings.method)
    if isinstance(clip, PackedClip):
        videos, row = _opened(clip.folder, clip.content), clip.row
        if not videos.num_frames(row):
            return StoredClip(row, bad={"reason": "not_video", "message": "sound without pictures has no flow"})
        times = np.asarray(videos.info(row)["times_s"], dtype=np.float64)
        track = _Track(times, np.arange(len(times)), partial(_packed_frames, videos, row), videos.size_px(row))
        rate = videos.fps(row)
        apart = max(1, round(rate / settings.fps)) if settings.fps and rate else 1
        return _encode(row, track, rate, replace(settings, step=settings.step * apart), method)
    try:
        with open_video(clip.path) as video:
            start_s, end_s = clip.span_s(video.duration_s)
            chosen = choose_frames(video.times_s, start_s, end_s, settings.fps, None)
            whole = len(chosen) == video.num_frames
            rate = video.fps if whole else len(chosen) / max(end_s - start_s, 1e-3)
            size = (video.height, video.width)
            track = _Track(video.times_s[chosen] - start_s, chosen, lambda at: video.frames_at(chosen[at]), size)
            return _encode(clip.row, track, rate, settings, method)
    except MediaError as error:
        return StoredClip(clip.row, bad={"reason": error.reason, "message": error.detail})


def _packed_frames(videos: PackedVideos, row: int, at: NDArray[np.int64]) -> Tensor:
    return videos.frames(row, at.tolist())


@lru_cache(maxsize=1)
def _opened(folder: str, content: str) -> PackedVideos:
    """Open the pack once a process, and again when it holds something else: its manifest may be large."""
    return PackedVideos(folder)


def _encode(
    row: int, track: _Track, fps: float, settings: FlowSettings, method: FlowMethod | FlowFunction
) -> StoredClip:
    count = len(track.times_s)
    kept = evenly(count, settings.max_frames)
    pairs = np.array(pairs_of(count, settings.step))[kept]  # (P, 2), places in the track
    size = shrunk_size(*track.size, settings.short_side_px)
    step = int(np.clip(_CHUNK_BYTES // (track.size[0] * track.size[1] * 3), 8, _CHUNK_FRAMES))
    fields = []
    for part in (pairs[first : first + step] for first in range(0, len(pairs), step)):
        places, local = np.unique(part, return_inverse=True)
        frames = shrink(track.read(places), settings.compute_px or settings.short_side_px)
        ends = [(int(one), int(other)) for one, other in local.reshape(part.shape)]
        flow = settings.stored(resize_flow(compute_flow(frames, ends, method), *size))
        fields.append(flow.permute(0, 2, 3, 1).contiguous())
    stored = torch.cat(fields).numpy()  # (P, H, W, C)
    sums = np.array([zlib.crc32(field) for field in stored], dtype="<u4")
    facts: dict[str, Any] = {
        "method": settings.method,
        "step": settings.step,
        "bound_px": settings.bound_px,
        "frames": track.numbers[kept].tolist(),
        "times_s": [round(float(value), 6) for value in track.times_s[kept]],
    }
    index = {
        "flow_frames": len(kept), "flow_fps": fps * len(kept) / count, "flow_height": size[0], "flow_width": size[1],
    }  # fmt: skip
    parts = {"flow": (".flow.npy", _npy(stored)), "flow_sums": (".crc32.npy", _npy(sums))}
    return StoredClip(row, parts, facts, index)


def _npy(values: NDArray[Any]) -> bytes:
    return npy_header(values.shape, values.dtype) + values.tobytes()
