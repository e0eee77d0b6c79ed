"""Readers of annotation files: one module a format, found by name or by looking at the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reeltag.data.manifest import Manifest
from reeltag.data.vocab import vocabulary
from reeltag.errors import ManifestError
from reeltag.registry import Registry


class Importer(Protocol):
    """What a module of this package registers: a class without constructor arguments.

    `looks_like` is the one line that `reeltag list formats --long` and errors show.
    """

    looks_like: str

    def detect(self, source: Path) -> tuple[float, str]:
        """Return how sure it is that `source` has this format, in [0, 1], and why, from its first lines."""
        ...

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Return the manifest of `source`, with paths relative to `videos`.

        Raises:
            ManifestError: a line is not of this format, or a label is not among `labels`.
        """
        ...


IMPORTERS: Registry[Importer] = Registry("format", "reeltag.data.importers")

_SURE = 0.3  # below this a guess would be a coin toss


@dataclass(frozen=True)
class Detection:
    """Which format a source was read as, and why.

    Attributes:
        format: the name in `IMPORTERS`.
        confidence: 1 when the caller named the format, else what its `detect` returned.
        why: what was seen, in words.
        others: the formats that also matched, best first, with their confidence.
    """

    format: str
    confidence: float
    why: str
    others: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return f"{self.format}: {self.why}"


def detect_format(source: str | Path) -> Detection:
    """Return the most confident format of a file or folder.

    Raises:
        ManifestError: nothing is there, or no format is confident enough; the message lists the formats.
    """
    path = Path(source)
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder; name an annotation file or a folder of videos")
    found = sorted(
        ((*IMPORTERS.build(name).detect(path), name) for name in IMPORTERS), key=lambda row: (-row[0], row[2])
    )
    confidence, why, name = found[0]
    if confidence < _SURE:
        formats = "; ".join(f"{name} ({IMPORTERS.build(name).looks_like})" for name in IMPORTERS)
        raise ManifestError(
            f"{path}: none of the known formats fits. Known: {formats}. Name one with `--format`, "
            "or write a csv with the columns path and labels"
        )
    others = tuple((other, score) for score, _, other in found[1:] if score >= _SURE)
    return Detection(name, confidence, why, others)


def import_manifest(
    source: str | Path,
    format: str | None = None,
    labels: str | Path | Sequence[str] | None = None,
    videos: str | Path | None = None,
) -> tuple[Manifest, Detection]:
    """Read any known annotation format.

    Args:
        source: an annotation file, or a folder.
        format: a name in `IMPORTERS`; default: detected.
        labels: the vocabulary: names, the name of a shipped vocabulary, or a label file. Default: `labels.txt` beside
            the source when there is one, else what the format itself tells.
        videos: the folder that paths in the annotation start from; default: the folder of `source`.

    Raises:
        ManifestError: the source is missing, of no known format, or has a line that contradicts its format.
        UnknownName: no such format or vocabulary.
    """
    path = Path(source)
    if format is None:
        detection = detect_format(path)
    else:
        importer = IMPORTERS.build(format)
        if not path.exists():
            raise ManifestError(f"{path}: no such file or folder; name an annotation file or a folder of videos")
        detection = Detection(format, 1.0, f"named by the caller; such a source looks like {importer.looks_like}")
    folder = path if path.is_dir() else path.parent
    if isinstance(labels, (str, Path)):
        labels = vocabulary(labels)
    elif labels is None and (folder / "labels.txt").is_file():
        labels = vocabulary(folder / "labels.txt")
    manifest = IMPORTERS.build(detection.format).read(path, Path(videos) if videos is not None else folder, labels)
    return manifest, detection
