"""The audit of a manifest: unreadable files, duplicates, leaks between splits, labels and sound."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from reeltag.data.fingerprint import Look, clusters, crashed_look, look_at, near_duplicates, same_bytes
from reeltag.data.manifest import Manifest
from reeltag.data.workers import map_in_order


@dataclass(frozen=True)
class Leak:
    """Clips of different splits that belong together.

    Attributes:
        kind: `file` (parts of one file), `duplicate` (equal bytes), `near_duplicate` or `group`.
        clips: video ids by split.
    """

    kind: str
    clips: dict[str, list[str]]


@dataclass(frozen=True)
class LabelCount:
    """How often a label occurs: clips in all, by split, and clips whose truth is unknown."""

    label: str
    clips: int
    by_split: dict[str, int]
    unknown: int


@dataclass(frozen=True)
class Audit:
    """What `check_manifest` found.

    Attributes:
        clips, files: rows of the manifest, and the different files they name.
        unreadable: one dictionary a clip: row, video_id, path, reason, message.
        damaged: ids of clips whose file has holes; the frames that it gives are right.
        duplicates, near_duplicates: groups of paths with equal bytes, and of paths that show the same pictures.
        leaks: what stands on both sides of a split.
        labels: counts in the order of the vocabulary; `never` and `always`: labels that no clip or every clip carries.
        missing: by split, the labels that occur elsewhere and not there.
        cardinality: mean labels a clip; `unlabelled`: clips without any.
        audio_share: share of the readable files that have a sound track.
        duration_s: of the readable files together.
    """

    clips: int
    files: int
    splits: dict[str, int]
    unreadable: list[dict[str, Any]]
    damaged: list[str]
    duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    leaks: list[Leak]
    labels: list[LabelCount]
    never: list[str]
    always: list[str]
    missing: dict[str, list[str]]
    cardinality: float
    unlabelled: int
    audio_share: float
    duration_s: float
    together: list[list[int]] = field(default_factory=list, repr=False)  # rows of files that are duplicates

    @property
    def reasons(self) -> dict[str, int]:
        """Unreadable clips by reason, most frequent first."""
        return dict(Counter(line["reason"] for line in self.unreadable).most_common())

    @property
    def bad_share(self) -> float:
        """Share of the clips that cannot be read, in [0, 1]."""
        return len(self.unreadable) / self.clips

    def to_json(self) -> str:
        """Return everything as indented JSON."""
        value = {**asdict(self), "reasons": self.reasons, "bad_share": self.bad_share}
        value.pop("together")
        return json.dumps(value, indent=2, ensure_ascii=True)

    def with_groups(self, manifest: Manifest) -> Manifest:
        """Return the manifest with duplicates and near-duplicates in one group, so that a split keeps them together."""
        old = manifest.groups or ("",) * len(manifest)
        by_group = defaultdict(list)
        for row, name in enumerate(old):
            by_group[name].append(row)
        joined = [rows for name, rows in by_group.items() if name] + self.together
        groups = list(old)
        pairs = [(rows[0], row) for rows in joined for row in rows[1:]]
        for rows in clusters(len(manifest), pairs):
            name = next((old[row] for row in rows if old[row]), manifest.video_ids[rows[0]])
            for row in rows:
                groups[row] = name
        return replace(manifest, groups=tuple(groups) if any(groups) else None)


def check_manifest(
    manifest: Manifest, *, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> Audit:
    """Open every file once, decode three frames of it, and compare files, splits and labels.

    Args:
        workers: processes that decode; 0 decodes in this one.
        progress: called with (files done, files in all).
    """
    paths = [os.path.abspath(manifest.video_path(row)) for row in range(len(manifest))]
    files = list(dict.fromkeys(paths))
    looks: list[Look] = []
    for look in map_in_order(look_at, files, workers=workers, crashed=crashed_look):
        looks.append(look)
        if progress is not None:
            progress(len(looks), len(files))
    rows_of = defaultdict(list)
    for row, path in enumerate(paths):
        rows_of[path].append(row)
    of_file = [rows_of[look.path] for look in looks]
    equal, near = same_bytes(looks), near_duplicates(looks)
    equal_sets = [set(group) for group in equal]
    near = [group for group in near if not any(set(group) <= known for known in equal_sets)]
    kinds = {
        "file": of_file,
        "duplicate": [[row for n in group for row in of_file[n]] for group in equal],
        "near_duplicate": [[row for n in group for row in of_file[n]] for group in near],
        "group": _rows_by_group(manifest),
    }
    good = [look for look in looks if not look.reason]
    bad = [(row, look) for look, rows in zip(looks, of_file, strict=True) if look.reason for row in rows]
    return Audit(
        clips=len(manifest),
        files=len(files),
        splits=manifest.split_counts,
        unreadable=[_bad_line(manifest, row, look) for row, look in sorted(bad, key=lambda pair: pair[0])],
        damaged=[
            manifest.video_ids[row] for look, rows in zip(looks, of_file, strict=True) if look.damaged for row in rows
        ],
        duplicates=[[manifest.paths[of_file[n][0]] for n in group] for group in equal],
        near_duplicates=[[manifest.paths[of_file[n][0]] for n in group] for group in near],
        leaks=[leak for kind, groups in kinds.items() for leak in _leaks(manifest, kind, groups)],
        audio_share=sum(look.has_audio for look in good) / max(len(good), 1),
        duration_s=sum(look.duration_s for look in good),
        together=[
            sorted(rows) for kind in ("file", "duplicate", "near_duplicate") for rows in kinds[kind] if len(rows) > 1
        ],
        **_label_statistics(manifest),
    )


def _bad_line(manifest: Manifest, row: int, look: Look) -> dict[str, Any]:
    names = {"row": row, "video_id": manifest.video_ids[row], "path": manifest.paths[row]}
    return {**names, "reason": look.reason, "message": look.message}


def _rows_by_group(manifest: Manifest) -> list[list[int]]:
    rows = defaultdict(list)
    for row, name in enumerate(manifest.groups or ()):
        if name:
            rows[name].append(row)
    return list(rows.values())


def _leaks(manifest: Manifest, kind: str, groups: Iterable[list[int]]) -> list[Leak]:
    found = []
    for rows in groups if manifest.splits else ():
        clips = defaultdict(list)
        for row in sorted(rows):
            clips[manifest.splits[row] if manifest.splits else ""].append(manifest.video_ids[row])
        if len([split for split in clips if split]) > 1:
            found.append(Leak(kind, dict(sorted(clips.items()))))
    return found


def _label_statistics(manifest: Manifest) -> dict[str, Any]:
    names, splits = manifest.label_names, manifest.splits or ("",) * len(manifest)
    clips, unknown = Counter[int](), Counter[int]()
    by_split: dict[str, Counter[int]] = {name: Counter() for name in manifest.split_counts}
    for labels, split in zip(manifest.labels, splits, strict=True):
        clips.update(labels)
        by_split[split].update(labels)
    for labels in manifest.ignores or ():
        unknown.update(labels)
    counts = [
        LabelCount(name, clips[n], {split: by_split[split][n] for split in by_split if split}, unknown[n])
        for n, name in enumerate(names)
    ]
    missing = {
        split: [count.label for n, count in enumerate(counts) if count.clips and not by_split[split][n]]
        for split in by_split if split
    }  # fmt: skip
    return {
        "labels": counts,
        "never": [count.label for count in counts if not count.clips],
        "always": [count.label for count in counts if count.clips == len(manifest)],
        "missing": {split: labels for split, labels in missing.items() if labels},
        "cardinality": sum(clips.values()) / len(manifest),
        "unlabelled": sum(not labels for labels in manifest.labels),
    }
