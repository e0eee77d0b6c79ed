"""Label vocabularies by name or file: the lists of the public data sets ship with the package."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from reeltag.errors import ManifestError, UnknownName
from reeltag.registry import close_name


def vocabulary_names() -> list[str]:
    """Return the names of the shipped vocabularies, sorted."""
    folder = resources.files("reeltag") / "vocab"
    return sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))


def vocabulary(name_or_path: str | Path) -> list[str]:
    """Return label names in index order.

    Args:
        name_or_path: a shipped name such as `mmit_313`, or a text file with one label a line.

    Raises:
        UnknownName: neither a shipped vocabulary nor a file.
        ManifestError: the file has an empty, repeated or unusable label.
    """
    name = str(name_or_path)
    if name in vocabulary_names():
        text = (resources.files("reeltag") / "vocab" / f"{name}.txt").read_text(encoding="utf-8")
        return text.splitlines()
    path = Path(name_or_path)
    if not path.is_file():
        hint = close_name(name, vocabulary_names())
        raise UnknownName(
            f"No vocabulary is called {name!r} and no such file exists. {hint}"
            f"Shipped: {', '.join(vocabulary_names())}; or give a text file with one label a line."
        )
    return read_labels(path)


def read_labels(path: Path) -> list[str]:
    """Return the labels of a text file, one a line, checked; blank lines at the end are dropped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error}); save the label list as UTF-8") from error
    # Only \n and \r\n end a line: str.splitlines also cuts at characters that names may hold.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return check_labels(lines, where=str(path))


def check_labels(names: Iterable[str], where: str) -> list[str]:
    """Return `names` as a list after checking that a label file and a csv cell can hold each and that none repeats.

    Raises:
        ManifestError: an empty list, or a name that is empty, repeated, has space at an end, a line break or a `|`.
    """
    labels = list(names)
    if not labels:
        raise ManifestError(f"{where}: no labels; write one label a line")
    seen: dict[str, int] = {}
    for number, label in enumerate(labels, start=1):
        if not label or label != label.strip() or any(c in label for c in "|\n\r\0") or not _is_utf8(label):
            raise ManifestError(
                f"{where}, label {number}: {label!r} cannot be a label; names are UTF-8, not empty, "
                "and have no space at either end, no line break and no '|'"
            )
        if label in seen:
            raise ManifestError(f"{where}, label {number}: {label!r} stands at {seen[label]} already; remove one")
        seen[label] = number
    return labels


def label_text(labels: Iterable[str]) -> bytes:
    """Return the content of `labels.txt`."""
    return "".join(f"{label}\n" for label in labels).encode()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 arrives with lone surrogates
        return False
    return True
