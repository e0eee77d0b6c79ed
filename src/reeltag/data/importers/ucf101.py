"""The split lists of UCF101: trainlist01.txt, testlist01.txt and classInd.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reeltag.data.importers import IMPORTERS
from reeltag.data.importers.lines import names_to_rows, numbered_lines, sample, share
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError

_LINE = re.compile(r"(?P<path>(?P<label>[^/]+)/[^/]+?)(?:[ \t]+(?P<index>[0-9]+))?[ \t]*")
_LIST = re.compile(r"(train|test)list([0-9]+)\.txt")
_GROUP = re.compile(r"v_(.+_g[0-9]+)_c[0-9]+\.")


@IMPORTERS.register("ucf101")
class Ucf101Lists:
    """The label is the folder of a video; classInd.txt gives the order. A folder stands for its first split.

    Clips `v_Name_g01_c02` were cut from one video and form the group `Name_g01`.
    """

    looks_like = "a folder with trainlist01.txt and testlist01.txt, or one such file with lines `Class/v_x.avi 1`"

    def detect(self, source: Path) -> tuple[float, str]:
        """Look for the file names, else count the lines that fit; see `Importer`."""
        if source.is_dir():
            numbers = _numbers(source)
            files = ", ".join(file.name for file in _files(source))
            return (1.0, f"{files}, the first split of {len(numbers)}") if numbers else (0.0, "")
        if _LIST.fullmatch(source.name):
            fits, total = share(sample(source), _LINE.fullmatch)
            files = ", ".join(file.name for file in _files(source))
            return (1.0 if total and fits == total else 0.0), f"{files}: {fits} of {total} lines are Class/video"
        return 0.0, ""

    def read(self, source: Path, videos: Path, labels: Sequence[str] | None) -> Manifest:
        """Read the train and test list of one split; see `Importer`."""
        lists = _files(source)
        if not lists:
            raise ManifestError(f"{source}: no trainlist01.txt or testlist01.txt here")
        if labels is None:
            labels = _class_index(lists[0].parent / "classInd.txt")
        rows, places, splits = [], [], []
        for file in lists:
            for number, line in numbered_lines(file):
                match = _LINE.fullmatch(line)
                if match is None:
                    raise ManifestError(f"{file}, line {number}: not of the form Class/v_x.avi 1")
                rows.append(match)
                places.append(f"{file.name} line {number}")
                splits.append("train" if file.name.startswith("train") else "test")
        indices, names = names_to_rows([[row["label"]] for row in rows], labels, source, lambda row: places[row])
        for row, index, place in zip(rows, indices, places, strict=True):
            if row["index"] and labels is not None and int(row["index"]) != index[0] + 1:
                raise ManifestError(
                    f"{source}, {place}: number {row['index']} is not that of {row['label']} in classInd.txt"
                )
        groups = [found[1] if (found := _GROUP.search(row["path"])) else "" for row in rows]
        return Manifest.build(
            [row["path"] for row in rows], indices, names, root=videos, splits=splits, groups=groups,
            source=str(source), where=lambda row: places[row],
        )  # fmt: skip


def _numbers(folder: Path) -> list[str]:
    return sorted({match[2] for file in folder.iterdir() if (match := _LIST.fullmatch(file.name))})


def _files(source: Path) -> list[Path]:
    """Return the train list and the test list of the split that `source` names, those that exist."""
    if source.is_dir():
        folder, numbers = source, _numbers(source)
        number = numbers[0] if numbers else ""
    else:
        match = _LIST.fullmatch(source.name)
        if match is None:
            return [source]
        folder, number = source.parent, match[2]
    return [file for part in ("train", "test") if (file := folder / f"{part}list{number}.txt").is_file()]


def _class_index(file: Path) -> list[str] | None:
    """Return the labels of classInd.txt (`1 ApplyEyeMakeup`), None without the file."""
    if not file.is_file():
        return None
    labels: list[str] = []
    for number, line in numbered_lines(file):
        cells = line.split(maxsplit=1)
        if len(cells) != 2 or cells[0] != str(len(labels) + 1):
            raise ManifestError(f"{file}, line {number}: {line!r} should be `{len(labels) + 1} ClassName`")
        labels.append(cells[1].strip())
    return labels
