"""Packing: every video or sound of a manifest decoded once, frames resized, and stored in WebDataset shards."""

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

from reeltag.data.manifest import Manifest
from reeltag.data.manifest_files import rebased
from reeltag.data.pack_clip import Clip, PackSettings, StoredClip, encode_clip
from reeltag.data.shards import INDEX_COLUMNS, ShardWriter
from reeltag.data.workers import map_in_order
from reeltag.errors import StoreError, TooManyBadFiles
from reeltag.store.atomic import sha256_of, write_atomic, write_json

_STATE = "progress.jsonl"


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
    stored = map_in_order(partial(encode_clip, settings=settings), clips, workers=workers, crashed=_crashed)
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
        stored.close()
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

    def add(self, manifest: Manifest, clip: StoredClip, store: str) -> None:
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
        frames = self.writer.add(f"{key}.npy" if store == "raw" else f"{key}.jpegs", clip.frames) if clip.frames else -1
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
    kept = rebased(kept, kept.root)  # a path that leaves the folder becomes absolute, or it could not be read back
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


def _clip(manifest: Manifest, row: int) -> Clip:
    start, end = (float("nan") if c is None else float(c[row]) for c in (manifest.start_s, manifest.end_s))
    return Clip(row, os.path.abspath(manifest.video_path(row)), start, end)


def _crashed(clip: Clip) -> StoredClip:
    return StoredClip(clip.row, bad={"reason": "crashed", "message": "decoding ended its process; replace the file"})
