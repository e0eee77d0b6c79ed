"""Extraction: the features of every video of a manifest into a store; continued, appended to or mended as needed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reeltag.data.feature_coding import PCA_FILE, Coding, Pca
from reeltag.data.feature_source import FeatureSource
from reeltag.data.feature_writer import FeatureWriter
from reeltag.data.features import FeatureStore
from reeltag.data.footage import FileFootage, PackedFootage
from reeltag.data.manifest import Manifest
from reeltag.data.shards import INDEX_COLUMNS
from reeltag.data.splitting import with_splits
from reeltag.errors import MediaError, RecipeError, StoreError
from reeltag.hardware import default_workers
from reeltag.inference.extract_views import ExtractView
from reeltag.inference.extractor import Extractor, coded
from reeltag.inference.sound_extractor import SoundExtractor, SoundWindows
from reeltag.store.atomic import sha256_of

Progress = Callable[[int, int], None]
Source = FileFootage | PackedFootage
RAW = "raw"  # the uncoded features that a PCA is fitted on, until the coded ones are all there


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did.

    Attributes:
        folder: where the features lie.
        videos: videos with features; `made`: those that this call computed.
        vectors: feature vectors of all videos.
        feature_sizes: widths of the streams of a vector.
        num_bytes: of the shards together.
        bad: one dictionary for each video that could not be read.
        mended: damaged shards that were made again.
        wall_s: seconds of this call.
    """

    folder: Path
    videos: int
    made: int
    vectors: int
    feature_sizes: tuple[int, ...]
    num_bytes: int
    bad: tuple[dict[str, Any], ...]
    mended: int
    wall_s: float


def extract(
    extractor: Extractor | SoundExtractor,
    footage: Source,
    out: Path,
    *,
    pca: int | None = None,
    quantize: bool = False,
    workers: int | None = None,
    shard_s: float | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> ExtractReport:
    """Write the features of every video into a folder that training and evaluation take in place of the manifest.

    What is there already is not done again: a stopped call goes on, new videos are added, damaged shards are made anew,
    and changed labels or splits are taken over. With `pca`, uncoded features are kept in `out/raw` until the fit on the
    training split is done; videos added later are coded by the same PCA.

    Args:
        extractor: what makes the features.
        footage: a manifest's files or packed shards.
        out: the folder.
        pca: components to keep, whitened; None stores the features as they are.
        quantize: one byte a value; needs `pca`.
        workers: decoding processes; None chooses.
        shard_s: close a shard after this many seconds; what a kill can cost.
        progress: called with (videos done, videos in all).
        note: called with what a person should know.

    Raises:
        StoreError: the folder holds features of other weights or settings, or no video could be read.
        RecipeError: `quantize` without `pca`, or a PCA that these videos cannot give.
    """
    began = time.monotonic()
    if quantize and pca is None:
        raise RecipeError("--quantize cuts values off at -2 and 2, which fits whitened features alone; add --pca D")
    job = _Job(extractor, _with_split(footage, note) if pca else footage, workers, shard_s, progress)
    coding, source = Coding(), extractor.source
    raw: FeatureStore | None = None
    if pca is not None:
        coding = Coding(_fitted(job, out, pca, note), quantize)
        source = source.coded(coding, sha256_of(out / PCA_FILE))
        if (out / RAW / "manifest.parquet").is_file():
            raw = FeatureStore(out / RAW)
    report = job.write(out, source, coding, raw)
    shutil.rmtree(out / RAW, ignore_errors=True)
    return replace(report, wall_s=time.monotonic() - began)


def _with_split(footage: Source, note: Callable[[str], None]) -> Source:
    """Return the footage with splits, since a PCA is fitted on the training split alone."""
    split, words = with_splits(footage)
    if words:
        note(words)
    assert isinstance(split, FileFootage | PackedFootage)  # what went in comes out
    return split


def _fitted(job: _Job, out: Path, num_components: int, note: Callable[[str], None]) -> Pca:
    """Return the PCA of the folder; fit it on the raw features of the training split when there is none yet."""
    if (out / PCA_FILE).is_file():
        fitted = Pca.load(out)
        if len(fitted.eigenvalues) != num_components:
            raise StoreError(
                f"{out} has a PCA of {len(fitted.eigenvalues)} components, this call asks for {num_components}; "
                "features are never mixed: choose another --out"
            )
        return fitted
    if (out / "manifest.parquet").is_file():
        raise StoreError(f"{out} holds features without PCA; features are never mixed: choose another --out")
    job.write(out / RAW, job.extractor.source, Coding(), None)
    store = FeatureStore(out / RAW)
    rows = [row for row, split in enumerate(store.manifest.splits or ()) if split == "train"]
    try:
        fitted = Pca.fit((store.features(row) for row in rows), num_components)
    except ValueError as error:
        raise RecipeError(f"--pca {num_components}: {error}") from None
    fitted.save(out)
    note(f"PCA fitted on {len(rows)} videos: {num_components} components hold {fitted.kept:.1%} of the variance")
    return fitted


class _Job:
    """The videos of one call and what is done with each."""

    def __init__(
        self,
        extractor: Extractor | SoundExtractor,
        footage: Source,
        workers: int | None,
        shard_s: float | None,
        progress: Progress | None,
    ) -> None:
        self.extractor, self.footage, self.progress = extractor, footage, progress
        self.manifest = _described(footage)
        self.keys = keys_of(footage)
        self.shard_s = shard_s
        self.workers = default_workers(extractor.device, footage.packed) if workers is None else workers

    def write(self, out: Path, source: FeatureSource, coding: Coding, raw: FeatureStore | None) -> ExtractReport:
        """Bring the store at `out` up to date, from raw features where they are known."""
        bad: list[dict[str, Any]] = []
        with FeatureWriter(out, source, shard_s=self.shard_s) as writer:
            left = [row for row, key in enumerate(self.keys) if key not in writer.known]
            total, made, mended = len(self.keys), 0, len(writer.damaged)
            start = total - len(left)
            self._tell(start, total)
            if raw is not None:
                missing = self._take_raw(raw, left, writer, coding)
                made, left = len(left) - len(missing), missing
            for row, features, times, line in self._made(left):
                if features is None or times is None:
                    bad.append(line)
                else:
                    made += 1
                    writer.add(self.keys[row], coded(coding, features, self.manifest.video_ids[row]), times)
                self._tell(start + made + len(bad), total)
            # Paths in a pack name where clips came from and are not opened again: they stay as they were written.
            manifest = replace(self.manifest, root=out) if self.footage.packed else self.manifest
            kept = writer.finish(manifest, self.keys, bad)
            shards = {place.shard for key, place in writer.known.items()}
        store = FeatureStore(out)
        return ExtractReport(
            out, len(kept), made, sum(store.num_frames(row) for row in range(len(kept))), source.feature_sizes,
            sum((out / shard).stat().st_size for shard in shards), tuple(bad), mended, 0.0,
        )  # fmt: skip

    def _take_raw(self, raw: FeatureStore, left: list[int], writer: FeatureWriter, coding: Coding) -> list[int]:
        """Code what is there as raw features; returns the rows that are not."""
        at = {key: row for row, key in enumerate(raw.keys)}
        missing = []
        for row in left:
            key = self.keys[row]
            if key in at:
                features, times = raw.stored(at[key])
                stored = coded(coding, Coding.decode(features), self.manifest.video_ids[row])
                writer.add(key, stored, times)
            else:
                missing.append(row)
        return missing

    def _made(
        self, rows: Sequence[int]
    ) -> Iterator[tuple[int, Tensor | None, NDArray[np.float64] | None, dict[str, Any]]]:
        """Yield (row, features, times, {}) of each video in order, or (row, None, None, why not)."""
        if not rows:
            return
        reading = _Reading(self.footage, self.extractor.view, rows)
        loader: DataLoader[Any] = DataLoader(
            reading, batch_size=None, num_workers=self.workers, prefetch_factor=2 if self.workers else None
        )
        for row, item in zip(rows, loader, strict=True):
            if "bad" in item:
                yield row, None, None, item["bad"]
                continue
            features, times = self.extractor.features(item["frames"], item["times_s"].numpy())
            yield row, features, times, {}

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


class _Reading(Dataset[dict[str, Any]]):
    """The frames, or windows of sound, of videos as the extractor's view wants them, read in any process."""

    def __init__(self, footage: Source, view: ExtractView | SoundWindows, rows: Sequence[int]) -> None:
        self.footage, self.view, self.rows = footage, view, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, manifest = self.rows[index], self.footage.manifest
        try:
            frames, times = self._read(row)
        except MediaError as error:
            return {"bad": {"row": row, "video_id": manifest.video_ids[row], "path": error.path,
                            "reason": error.reason, "message": error.detail}}  # fmt: skip
        return {"frames": frames, "times_s": torch.from_numpy(times)}

    def _read(self, row: int) -> tuple[Tensor, NDArray[np.float64]]:
        if isinstance(self.view, SoundWindows):
            with self.footage.open(row) as source:
                return self.view.read(source)
        return self.footage.timed_clip(row, self.view.choose, self.view.shrink)


def keys_of(footage: Source) -> list[str]:
    """Return a key for each row that changes with whatever would change its features.

    It covers the video's id and times, and the size of its file; or, in a packed folder, its place in a shard and that
    shard's digest. Moving files keeps it.
    """
    manifest = footage.manifest
    keys = []
    for row, video_id in enumerate(manifest.video_ids):
        times = [None if c is None else repr(float(c[row])) for c in (manifest.start_s, manifest.end_s)]
        if isinstance(footage, PackedFootage):
            content: list[Any] = [footage.videos.digest(row), str(manifest.extra["offset"][row])]
        else:
            path = manifest.video_path(row)
            content = [path.stat().st_size if path.is_file() else -1]
        keys.append(hashlib.sha256(json.dumps([video_id, times, content]).encode()).hexdigest()[:32])
    return keys


def _described(footage: Source) -> Manifest:
    """Return the manifest to be kept beside the features: paths that still lead to the videos, no places in a pack."""
    manifest = footage.manifest
    if not isinstance(footage, PackedFootage):
        return manifest
    extra = {name: column for name, column in manifest.extra.items() if name not in INDEX_COLUMNS}
    return replace(manifest, extra=extra)
