"""Packing: every video of a manifest decoded once, its frames resized and stored in WebDataset shards."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.io import encode_jpeg

from reeltag.data.manifest import Manifest
from reeltag.data.shards import INDEX_COLUMNS, ShardWriter, join_jpegs, npy_header
from reeltag.data.workers import map_in_order
from reeltag.errors import MediaError, StoreError, TooManyBadFiles
from reeltag.store.atomic import sha256_of, write_atomic, write_json

_CHUNK_BYTES = 256 << 20
_STATE = "progress.jsonl"


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
class PackReport:
    """What packing did.

    Attributes:
        folder: where the pack lies.
        clips: stored clips; `bad`: one dictionary per clip left out, as in bad_files.jsonl.
        shards, num_bytes: tar files and their size together.
        resumed: clips that an earlier, stopped call had stored already.
        wall_s: seconds of this call.
    """

    folder: Path
    clips: int
    bad: tuple[dict[str, Any], ...]
    shards: int
    num_bytes: int
    resumed: int
    wall_s: float

    @property
    def bad_share(self) -> float:
        """Share of the clips that could not be read."""
        return len(self.bad) / (len(self.bad) + self.clips)


@dataclass(frozen=True)
class _Clip:
    """What a worker is told: where a clip lies; NaN times are open ends."""

    row: int
    path: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class _Stored:
    """What a worker sends back: the members of a sample, or why there is none."""

    row: int
    frames: bytes = b""
    audio: bytes = b""
    info: dict[str, Any] | None = None
    bad: dict[str, str] | None = None


def pack(
    manifest: Manifest,
    out: str | Path,
    store: Literal["jpeg", "raw"] = "jpeg",
    short_side_px: int = 128,
    max_frames: int | None = None,
    fps: float | None = None,
    quality: int = 90,
    audio_rate_hz: int | None = 16000,
    shard_bytes: int = 256 << 20,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Write a folder that training and evaluation read in place of the manifest.

    The folder holds `shard-000000.tar`, ..., `manifest.parquet` (the rows that could be read, with their places),
    `labels.txt`, `bad_files.jsonl` and, last, `shards.json` with the settings and the SHA-256 of each shard. Each file
    is whole or absent. A call that was stopped is continued by the same call: finished shards are kept.

    Args:
        store, short_side_px, max_frames, fps, quality, audio_rate_hz, shard_bytes: see `PackSettings`.
        workers: processes that decode; 0 decodes in this one.
        progress: called with (clips done, clips in all).

    Raises:
        StoreError: `out` holds another pack.
        TooManyBadFiles: no clip at all could be read.
    """
    began = time.monotonic()
    settings = PackSettings(store, short_side_px, max_frames, fps, quality, audio_rate_hz, shard_bytes)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(manifest, settings)
    state = _finished_before(folder, key)
    resumed = sum(len(shard["rows"]) for shard in state)
    if not (folder / "shards.json").exists():
        _write_shards(manifest, folder, settings, state, key, workers, progress)
        _write_index(manifest, folder, settings, state, key)
    elif progress is not None:
        progress(len(manifest), len(manifest))
    bad = tuple(bad for shard in state for bad in shard["bad"])
    return PackReport(
        folder=folder,
        clips=sum(len(shard["rows"]) for shard in state),
        bad=bad,
        shards=sum(bool(shard["rows"]) for shard in state),
        num_bytes=sum(shard["bytes"] for shard in state),
        resumed=resumed,
        wall_s=time.monotonic() - began,
    )


def _key(manifest: Manifest, settings: PackSettings) -> str:
    """Return what must be equal for finished shards to be kept: settings, content and files."""
    paths = [os.path.abspath(manifest.video_path(row)) for row in range(len(manifest))]
    return hashlib.sha256(json.dumps([1, asdict(settings), manifest.hash, paths]).encode()).hexdigest()


def _finished_before(folder: Path, key: str) -> list[dict[str, Any]]:
    """Return the finished shards of an earlier call; refuse a folder with another pack."""
    done, state = folder / "shards.json", folder / _STATE
    if done.exists():
        value = json.loads(done.read_bytes())
        if value.get("key") != key:
            raise StoreError(f"{folder} holds a pack of another manifest or other settings; choose another folder")
        return list(value["progress"])
    finished: list[dict[str, Any]] = []
    lines = state.read_bytes().split(b"\n") if state.exists() else []
    if lines and lines[0].decode() != key:
        raise StoreError(
            f"{folder} holds an unfinished pack of another manifest or other settings; choose another folder"
        )
    for line in lines[1:]:
        try:
            shard = json.loads(line)
        except ValueError:
            break  # the line that was being written when the call was stopped
        path = folder / shard["name"]
        if not path.is_file() or path.stat().st_size != shard["bytes"] or sha256_of(path) != shard["sha256"]:
            break
        finished.append(shard)
    text = b"".join(json.dumps(shard).encode() + b"\n" for shard in finished)
    write_atomic(state, key.encode() + b"\n" + text)
    return finished


def _write_shards(
    manifest: Manifest,
    folder: Path,
    settings: PackSettings,
    state: list[dict[str, Any]],
    key: str,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decode what is left and append a line to `progress.jsonl` for each shard that is whole."""
    total = len(manifest)
    first = state[-1]["next_row"] if state else 0
    for stray in folder.glob(".shard-*.part"):
        stray.unlink()
    clips = (_clip(manifest, row) for row in range(first, total))
    stored = map_in_order(partial(_encode, settings=settings), clips, workers=workers, crashed=_crashed)
    shard: _OpenShard | None = None
    try:
        for result in stored:
            shard = shard or _OpenShard(folder, len(state))
            if result.bad is not None:
                names = {"row": result.row, "video_id": manifest.video_ids[result.row]}
                shard.bad.append({**names, "path": manifest.paths[result.row], **result.bad})
            else:
                shard.add(manifest, result, settings.store)
            if shard.writer.position >= settings.shard_bytes or result.row == total - 1:
                state.append(shard.finish(result.row + 1))
                with (folder / _STATE).open("ab") as file:
                    file.write(json.dumps(state[-1]).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                shard = None
            if progress is not None:
                progress(result.row + 1, total)
    finally:
        stored.close()  # type: ignore[attr-defined]
        if shard is not None:
            shard.discard()


class _OpenShard:
    """A shard while it is written, under a name that no reader takes for a shard."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name = f"shard-{number:06d}.tar"
        self._folder = folder
        self._temporary = folder / f".{self.name}.part"
        self._file = self._temporary.open("wb")
        self.writer = ShardWriter(self._file)
        self.rows: list[dict[str, Any]] = []
        self.bad: list[dict[str, Any]] = []

    def add(self, manifest: Manifest, clip: _Stored, store: str) -> None:
        info = clip.info or {}
        row, key = clip.row, f"{clip.row:08d}"
        sample = {
            "video_id": manifest.video_ids[row],
            "labels": [manifest.label_names[index] for index in manifest.labels[row]],
            "split": manifest.splits[row] if manifest.splits else "",
            **info["json"],
        }
        start = self.writer.position
        self.writer.add(f"{key}.json", json.dumps(sample).encode())
        frames = self.writer.add(f"{key}.npy" if store == "raw" else f"{key}.jpegs", clip.frames)
        audio = self.writer.add(f"{key}.audio.npy", clip.audio) if clip.audio else -1
        places = {"row": row, "shard": self.name, "offset": start, "size": self.writer.position - start}
        self.rows.append(
            places | {"frames_offset": frames, "frames_bytes": len(clip.frames), "audio_offset": audio, **info["index"]}
        )

    def finish(self, next_row: int) -> dict[str, Any]:
        """Give the shard its name and return its line; without any sample there is no shard."""
        digest = self.writer.finish()
        self._file.close()
        if self.rows:
            os.replace(self._temporary, self._folder / self.name)
        else:
            self._temporary.unlink()
        return {
            "name": self.name, "sha256": digest, "bytes": self.writer.position if self.rows else 0,
            "next_row": next_row, "rows": self.rows, "bad": self.bad,
        }  # fmt: skip

    def discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _write_index(
    manifest: Manifest, folder: Path, settings: PackSettings, state: list[dict[str, Any]], key: str
) -> None:
    rows = [row for shard in state for row in shard["rows"]]
    bad = [line for shard in state for line in shard["bad"]]
    write_atomic(folder / "bad_files.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in bad))
    if not rows:
        (folder / _STATE).unlink()
        reasons = sorted({line["reason"] for line in bad})
        raise TooManyBadFiles(
            f"none of {len(bad)} videos can be read ({', '.join(reasons)}); see {folder}/bad_files.jsonl"
        )
    kept = manifest.take([row["row"] for row in rows])
    places = {name: tuple(row[name] for row in rows) for name in INDEX_COLUMNS}
    # The paths stay as they were written: they name where a clip came from and are not opened again.
    replace(kept, root=folder, extra={**kept.extra, **places}).write(folder / "manifest.parquet")
    shards = [{name: shard[name] for name in ("name", "sha256", "bytes")} for shard in state if shard["rows"]]
    brief = [{**shard, "rows": [{"row": row["row"]} for row in shard["rows"]]} for shard in state]
    description = {
        "format": "reeltag shards 1",
        "settings": asdict(settings),
        "manifest": kept.hash,
        "key": key,
        "shards": shards,
        "progress": brief,
    }
    write_json(folder / "shards.json", description)
    (folder / _STATE).unlink()


def _clip(manifest: Manifest, row: int) -> _Clip:
    start, end = (float("nan") if c is None else float(c[row]) for c in (manifest.start_s, manifest.end_s))
    return _Clip(row, os.path.abspath(manifest.video_path(row)), start, end)


def _crashed(clip: _Clip) -> _Stored:
    return _Stored(clip.row, bad={"reason": "crashed", "message": "decoding ended its process; replace the file"})


def _encode(clip: _Clip, settings: PackSettings) -> _Stored:
    """Decode, resize and encode one clip; a failure is a result, since it travels between processes."""
    from reeltag.media import open_video

    try:
        with open_video(clip.path) as video:
            start_s = 0.0 if np.isnan(clip.start_s) else clip.start_s
            end_s = video.duration_s if np.isnan(clip.end_s) else min(clip.end_s, video.duration_s)
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
        return _Stored(clip.row, bad={"reason": error.reason, "message": error.detail})
    packed_fps = rate if len(indices) == count else len(indices) / max(end_s - start_s, 1e-3)
    facts = {
        "width": width, "height": height, "num_frames": count, "fps": rate, "has_audio": heard, "damaged": damaged,
        "times_s": [round(float(value), 6) for value in times], "duration_s": round(end_s - start_s, 6),
    }  # fmt: skip
    index = {
        "packed_frames": len(indices), "packed_fps": packed_fps, "frame_height": frames.shape[2],
        "frame_width": frames.shape[3], "audio_samples": 0 if sound is None else len(sound),
    }  # fmt: skip
    return _Stored(
        clip.row,
        frames=_raw(frames) if settings.store == "raw" else _jpegs(frames, settings.quality),
        audio=b"" if sound is None else npy_header(sound.shape, sound.dtype) + sound.tobytes(),
        info={"json": facts, "index": index},
    )


def choose_frames(
    times_s: np.ndarray[Any, np.dtype[np.float64]],
    start_s: float,
    end_s: float,
    fps: float | None,
    max_frames: int | None,
) -> np.ndarray[Any, np.dtype[np.int64]]:
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
    if max_frames is not None and len(kept) > max_frames:
        kept = kept[((np.arange(max_frames) + 0.5) * len(kept) / max_frames).astype(np.int64)]
    return kept


def shrink(frames: Tensor, short_side_px: int) -> Tensor:
    """Return uint8 (T, C, H, W) with the short side at `short_side_px` (antialiased bilinear), never enlarged."""
    height, width = frames.shape[2:]
    if min(height, width) <= short_side_px:
        return frames
    scale = short_side_px / min(height, width)
    size = (round(height * scale), round(width * scale))
    return torch.nn.functional.interpolate(frames, size=size, mode="bilinear", antialias=True)


def _parts(indices: np.ndarray[Any, np.dtype[np.int64]], frame_bytes: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Return runs of frame numbers whose pixels fit 256 MiB, so that a long 4K video does not fill the memory."""
    step = max(_CHUNK_BYTES // max(frame_bytes, 1), 8)
    return [indices[first : first + step] for first in range(0, len(indices), step)]


def _sound(video: Any, start_s: float, end_s: float, rate_hz: int | None) -> np.ndarray[Any, np.dtype[np.int16]] | None:
    if rate_hz is None or not video.has_audio:
        return None
    try:
        samples = video.audio(rate_hz=rate_hz)[round(start_s * rate_hz) : round(end_s * rate_hz)]
    except MediaError:
        return None  # the pictures are good; `has_audio` stays true in the sample and `audio` of the row is None
    scaled = (samples.numpy() * 32767).round().clip(-32768, 32767)
    return scaled.astype("<i2") if len(scaled) else None


def _raw(frames: Tensor) -> bytes:
    pixels = frames.permute(0, 2, 3, 1).contiguous().numpy()  # (T, H, W, 3)
    return npy_header(pixels.shape, pixels.dtype) + pixels.tobytes()


def _jpegs(frames: Tensor, quality: int) -> bytes:
    return join_jpegs([encode_jpeg(frame.contiguous(), quality=quality).numpy().tobytes() for frame in frames])
