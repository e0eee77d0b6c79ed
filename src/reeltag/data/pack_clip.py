"""One clip of a pack: which frames are kept, and how frames and sound become the members of a sample."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reeltag.data.manifest import Manifest
from reeltag.data.shard_file import npy_header
from reeltag.data.shard_job import StoredClip
from reeltag.data.shards import join_jpegs
from reeltag.errors import MediaError
from reeltag.media import Sound, Video, open_media

_CHUNK_BYTES = 256 << 20


@dataclass(frozen=True)
class PackSettings:
    """How clips are stored; equal settings and an equal manifest give equal shards.

    Attributes:
        store: `raw` keeps pixels (fast, large), `jpeg` one JPEG a frame (about a tenth of the size).
        short_side_px: the short side is shrunk to this, never enlarged; the long side keeps the shape.
        max_frames: a clip with more frames keeps this many, evenly spaced; None keeps all.
        fps: frames per second to keep, by the time stamps; None, or more than the video has, keeps all.
        quality: of JPEG, 1 to 100.
        audio_rate_hz: of the sound, stored as 16-bit samples of one channel; None leaves sound out.
        shard_bytes: a shard is closed once it is this large.
    """

    store: Literal["jpeg", "raw"] = "jpeg"
    short_side_px: int = 128
    max_frames: int | None = None
    fps: float | None = None
    quality: int = 90
    audio_rate_hz: int | None = 16000
    shard_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if self.store not in ("jpeg", "raw"):
            raise ValueError(f"store {self.store!r} is neither 'jpeg' nor 'raw'")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be in 1..100, got {self.quality}")
        for name in ("short_side_px", "max_frames", "fps", "audio_rate_hz", "shard_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class Clip:
    """What a worker is told: where a clip lies; NaN times are open ends."""

    row: int
    path: str
    start_s: float
    end_s: float

    def span_s(self, duration_s: float) -> tuple[float, float]:
        """Return where the clip begins and ends in a video of this length."""
        start_s = 0.0 if np.isnan(self.start_s) else self.start_s
        return start_s, duration_s if np.isnan(self.end_s) else min(self.end_s, duration_s)


def clip_of(manifest: Manifest, row: int) -> Clip:
    """Return what a worker is told about a row."""
    start, end = (float("nan") if c is None else float(c[row]) for c in (manifest.start_s, manifest.end_s))
    return Clip(row, os.path.abspath(manifest.video_path(row)), start, end)


def encode_clip(clip: Clip, settings: PackSettings) -> StoredClip:
    """Decode, resize and encode one clip; a failure is a result, since it travels between processes."""
    try:
        with open_media(clip.path) as video:
            if isinstance(video, Sound):
                return _sound_alone(clip, video, settings)
            start_s, end_s = clip.span_s(video.duration_s)
            indices = choose_frames(video.times_s, start_s, end_s, settings.fps, settings.max_frames)
            frames = torch.cat(
                [
                    shrink(video.frames_at(part), settings.short_side_px)
                    for part in _parts(indices, video.width * video.height * 3)
                ]
            )  # (T, 3, H, W), channels last
            sound = _sound(video, start_s, end_s, settings.audio_rate_hz)
            times = video.times_s[indices] - start_s
            width, height, count, rate, heard = video.width, video.height, video.num_frames, video.fps, video.has_audio
            damaged = video.damaged
    except MediaError as error:
        return StoredClip(clip.row, bad={"reason": error.reason, "message": error.detail})
    packed_fps = rate if len(indices) == count else len(indices) / max(end_s - start_s, 1e-3)
    facts = {
        "width": width, "height": height, "num_frames": count, "fps": rate, "has_audio": heard, "damaged": damaged,
        "times_s": [round(float(value), 6) for value in times], "duration_s": round(end_s - start_s, 6),
    }  # fmt: skip
    index = {
        "packed_frames": len(indices), "packed_fps": packed_fps, "frame_height": frames.shape[2],
        "frame_width": frames.shape[3], "audio_offset": -1, "audio_samples": 0 if sound is None else len(sound),
    }  # fmt: skip
    raw = settings.store == "raw"
    parts = {"frames": (".npy", _raw(frames)) if raw else (".jpegs", _jpegs(frames, settings.quality))}
    if sound is not None:
        parts["audio"] = (".audio.npy", npy_header(sound.shape, sound.dtype) + sound.tobytes())
    return StoredClip(clip.row, parts, facts, index)


def _sound_alone(clip: Clip, file: Sound, settings: PackSettings) -> StoredClip:
    """Return a clip without pictures, as long as its sound.

    Raises:
        MediaError: there is no sample, or sound is not to be stored.
    """
    if settings.audio_rate_hz is None:
        raise MediaError("not_video", clip.path, "sound without pictures, and sound is left out; give an audio rate")
    whole = file.audio(settings.audio_rate_hz)
    rate_hz = settings.audio_rate_hz
    start_s, end_s = clip.span_s(len(whole) / rate_hz)
    sound = _int16(whole[round(start_s * rate_hz) : round(end_s * rate_hz)])
    if not len(sound):
        raise MediaError("corrupt", clip.path, f"no sample of sound in its {len(whole) / rate_hz:.3g} s to be kept")
    facts = {
        "width": 0, "height": 0, "num_frames": 0, "fps": 0.0, "has_audio": True, "damaged": False,
        "times_s": [], "duration_s": round(len(sound) / rate_hz, 6),
    }  # fmt: skip
    index = {
        "packed_frames": 0, "packed_fps": 0.0, "frame_height": 0, "frame_width": 0, "frames_offset": -1,
        "frames_bytes": 0, "audio_samples": len(sound),
    }  # fmt: skip
    parts = {"audio": (".audio.npy", npy_header(sound.shape, sound.dtype) + sound.tobytes())}
    return StoredClip(clip.row, parts, facts, index)


def choose_frames(
    times_s: NDArray[np.float64],
    start_s: float,
    end_s: float,
    fps: float | None,
    max_frames: int | None,
) -> NDArray[np.int64]:
    """Return the numbers of the frames to keep of those shown in [start_s, end_s), at least one.

    With `fps`, the frames on the screen at start_s + k / fps, each once; then, with `max_frames` = N < the number n of
    frames left, those in the middle of N equal parts: floor((k + 0.5) * n / N).
    """
    tick_s = 1e-6
    first = max(int(np.searchsorted(times_s, start_s + tick_s, side="right")) - 1, 0)
    last = max(int(np.searchsorted(times_s, end_s - tick_s, side="left")), first + 1)
    kept = np.arange(first, last)
    if fps is not None:
        wanted = start_s + np.arange(max(int(np.ceil((end_s - start_s) * fps - tick_s)), 1)) / fps
        shown = np.searchsorted(times_s, wanted + tick_s, side="right") - 1
        kept = np.unique(np.clip(shown, first, last - 1))
    return kept[evenly(len(kept), max_frames)]


def evenly(count: int, wanted: int | None) -> NDArray[np.int64]:
    """Return at most `wanted` of `count` numbers: those in the middle of equal parts; None wants all."""
    if wanted is None or count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


def shrunk_size(height: int, width: int, short_side_px: int) -> tuple[int, int]:
    """Return (height, width) with the short side at `short_side_px`, never enlarged."""
    scale = min(short_side_px / min(height, width), 1.0)
    return round(height * scale), round(width * scale)


def shrink(frames: Tensor, short_side_px: int) -> Tensor:
    """Return uint8 (T, C, H, W) with the short side at `short_side_px` (antialiased bilinear), never enlarged."""
    height, width = frames.shape[2:]
    size = shrunk_size(height, width, short_side_px)
    if size == (height, width):
        return frames
    return torch.nn.functional.interpolate(frames, size=size, mode="bilinear", antialias=True)


def _parts(indices: NDArray[np.int64], frame_bytes: int) -> list[NDArray[np.int64]]:
    """Return runs of frame numbers whose pixels fit 256 MiB, so that a long 4K video does not fill the memory."""
    step = max(_CHUNK_BYTES // max(frame_bytes, 1), 8)
    return [indices[first : first + step] for first in range(0, len(indices), step)]


def _sound(video: Video, start_s: float, end_s: float, rate_hz: int | None) -> NDArray[np.int16] | None:
    if rate_hz is None or not video.has_audio:
        return None
    try:
        samples = video.audio(rate_hz=rate_hz)[round(start_s * rate_hz) : round(end_s * rate_hz)]
    except MediaError:
        return None  # the pictures are good; `has_audio` stays true in the sample and `audio` of the row is None
    return _int16(samples) if len(samples) else None


def _int16(samples: Tensor) -> NDArray[np.int16]:
    return (samples.numpy() * 32767).round().clip(-32768, 32767).astype("<i2")


def _raw(frames: Tensor) -> bytes:
    pixels = frames.permute(0, 2, 3, 1).contiguous().numpy()  # (T, H, W, 3)
    return npy_header(pixels.shape, pixels.dtype) + pixels.tobytes()


def _jpegs(frames: Tensor, quality: int) -> bytes:
    pictures = []
    for pixels in frames.permute(0, 2, 3, 1).contiguous().numpy():  # (H, W, 3)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        pictures.append(file.getvalue())
    return join_jpegs(pictures)
