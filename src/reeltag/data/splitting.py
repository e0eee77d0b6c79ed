"""A split for footage whose manifest has none, so that training just works; the person is told."""

from __future__ import annotations

from reeltag.data.footage import FileFootage, Footage
from reeltag.data.split import split_manifest


def with_splits(footage: Footage) -> tuple[Footage, str | None]:
    """Return footage whose manifest has splits, and a note when they were made here.

    The split is made by iterative stratification with seed 0, so that training, resuming and evaluation of one manifest
    all see the same one.
    """
    manifest = footage.manifest
    if manifest.splits is not None and any(manifest.splits):
        return footage, None
    split = split_manifest(manifest)
    counts = ", ".join(f"{name} {count}" for name, count in split.split_counts.items())
    note = f"the manifest has no split: made one by iterative stratification ({counts}); `reeltag data split` keeps it"
    if isinstance(footage, FileFootage):
        return FileFootage(split, footage.flow), note
    footage.manifest = split
    return footage, note
