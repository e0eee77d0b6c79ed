"""What the text formats share: numbered lines, label numbers, split names, and where the file of a video lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from reeltag.errors import ManifestError
from reeltag.registry import close_name

VIDEO_SUFFIXES = frozenset(
    [".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".hevc", ".m2ts", ".m2v",
     ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm",
     ".wmv", ".y4m"]
)  # fmt: skip
SOUND_SUFFIXES = frozenset([".aac", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"])
SAMPLE_LINES = 100
_SAMPLE_BYTES = 1 << 16
_SPLITS = {
    "train": ("train", "training", "trainset", "trainingset", "tr"),
    "val": ("val", "valid", "validate", "validation", "validationset", "valset", "dev"),
    "test": ("test", "testing", "testset", "eval", "evaluation", "holdout"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}


def split_name(text: str) -> str:
    """Return `train`, `val` or `test` for the usual words, anything else unchanged."""
    return _SPLIT_OF.get(text.strip().lower(), text.strip())


def is_split(text: str) -> bool:
    """Say whether a folder of this name is a split rather than a label."""
    return text.strip().lower() in _SPLIT_OF


def is_video(name: str) -> bool:
    """Say whether a file name has the suffix of a video."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def is_sound(name: str) -> bool:
    """Say whether a file name has the suffix of a sound file."""
    return Path(name).suffix.lower() in SOUND_SUFFIXES


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines that hold text; names that are not UTF-8 survive as surrogates."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    return [(number, line) for number, line in lines if line.strip()]


def sample(path: Path) -> list[str]:
    """Return up to 100 whole lines from the start of a text file, or none for a folder and for binary data."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        start = file.read(_SAMPLE_BYTES)
    if b"\0" in start:
        return []
    lines = start.decode("utf-8-sig", "surrogateescape").split("\n")
    if len(start) == _SAMPLE_BYTES:
        lines.pop()  # cut in the middle
    return list(islice((line.removesuffix("\r") for line in lines if line.strip()), SAMPLE_LINES))


def share(lines: Sequence[str], fits: Callable[[str], object]) -> tuple[int, int]:
    """Return how many of the lines fit, and how many there are."""
    return sum(bool(fits(line)) for line in lines), len(lines)


def certainty(fits: int, total: int, most: float) -> float:
    """Return `most` when every line fits, and at most 0.4 otherwise: one line that does not may be a header."""
    return 0.0 if not total else most if fits == total else 0.4 * fits / total


def numbered_names(rows: Sequence[Sequence[int]], labels: Sequence[str] | None) -> list[str]:
    """Return the vocabulary of label numbers: `labels`, or "0", "1", ... up to the greatest number."""
    if labels is not None:
        return list(labels)
    return [str(index) for index in range(1 + max((index for row in rows for index in row), default=0))]


def names_to_rows(
    rows: Sequence[Iterable[str]], labels: Sequence[str] | None, source: Path, where: Callable[[int], str]
) -> tuple[list[list[int]], list[str]]:
    """Return the label indices of each row and the vocabulary: `labels`, or the sorted set of the names.

    Raises:
        ManifestError: a name is not among `labels`.
    """
    found = [list(row) for row in rows]
    names = list(labels) if labels is not None else sorted({name for row in found for name in row})
    index_of = {name: index for index, name in enumerate(names)}
    for number, row in enumerate(found):
        for name in row:
            if name not in index_of:
                raise ManifestError(
                    f"{source}, {where(number)}: label {name!r} is not among the {len(names)} labels. "
                    f"{close_name(name, names)}".strip()
                )
    return [[index_of[name] for name in row] for row in found], names


def first_existing(videos: Path, candidates: Sequence[str]) -> str:
    """Return the first candidate that is a file below `videos`, else the first one; `x` also stands for `x.mp4` etc."""
    for name in candidates:
        if (videos / name).exists():
            return name
        if not is_video(name):
            for suffix in (".mp4", ".mkv", ".webm", ".avi", ".mov"):
                if (videos / (name + suffix)).exists():
                    return name + suffix
    return candidates[0]
