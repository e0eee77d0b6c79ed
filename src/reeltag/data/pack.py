"""Packing: every video of a manifest decoded once, its frames resized and stored in WebDataset shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

from reeltag.data.manifest import Manifest
from reeltag.data.pack_clip import Clip, PackSettings, clip_of, encode_clip
from reeltag.data.shard_job import ShardJob, ShardReport
from reeltag.data.shards import PackedVideos


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
) -> ShardReport:
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
    settings = PackSettings(store, short_side_px, max_frames, fps, quality, audio_rate_hz, shard_bytes)
    job: ShardJob[Clip] = ShardJob(
        folder=Path(out),
        reader=PackedVideos,
        manifest=manifest,
        settings=asdict(settings),
        sources=[os.path.abspath(manifest.video_path(row)) for row in range(len(manifest))],
        item=partial(clip_of, manifest),
        encode=partial(encode_clip, settings=settings),
        shard_bytes=shard_bytes,
    )
    return job.run(workers, progress)
