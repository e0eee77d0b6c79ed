"""Features with several labels from the files of MULAN: ARFF for the numbers, XML for which attributes are labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from reeltag.errors import ManifestError

Array: TypeAlias = npt.NDArray[Any]

_ATTRIBUTE = re.compile(r"@attribute\s+(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|(\S+))\s+(.+)", re.IGNORECASE)
_NUMERIC = ("numeric", "real", "integer")


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Feature vectors and their labels.

    Attributes:
        features: (N, D) float32.
        targets: (N, L) bool.
        label_names: L names.
    """

    features: Array
    targets: Array
    label_names: list[str]


def read_mulan(arff: Path, xml: Path) -> LabelledFeatures:
    """Read a MULAN data set: numeric attributes are features, the attributes that the XML names are labels.

    Rows may be dense (`1.5,0,1`) or sparse (`{0 1.5, 2 1}`); a missing value (`?`) becomes the mean of its column.

    Raises:
        ManifestError: a file is missing or cannot be read, with the line; a label is no attribute or not 0 or 1.
    """
    labels = _labels(xml)
    names, nominal, rows = _table(arff)
    column = {name: index for index, name in enumerate(names)}
    if strange := [name for name in labels if name not in column]:
        raise ManifestError(f"{xml}: label {strange[0]!r} is no attribute of {arff}; give the two files of one set")
    chosen = [column[name] for name in labels]
    others = [index for index in range(len(names)) if index not in set(chosen)]
    if words := [names[index] for index in others if nominal[index]]:
        raise ManifestError(f"{arff}: attribute {words[0]!r} is nominal; features must be numeric")
    targets, features = rows[:, chosen], rows[:, others]
    if not np.isin(targets, (0, 1)).all():
        raise ManifestError(f"{arff}: a label is neither 0 nor 1")
    missing = np.isnan(features)
    if missing.any():
        known = np.where(missing, 0, features).sum(0) / np.maximum((~missing).sum(0), 1)
        features = np.where(missing, known, features)
    return LabelledFeatures(features.astype(np.float32), targets.astype(bool), labels)


def _labels(xml: Path) -> list[str]:
    try:
        root = ElementTree.fromstring(xml.read_text(encoding="utf-8"))
    except (OSError, ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ManifestError(f"{xml} cannot be read: {error}") from None
    names = [element.get("name", "") for element in root.iter() if element.tag.rpartition("}")[2] == "label"]
    if not names or not all(names):
        raise ManifestError(f"{xml} names no labels; it should hold <label name=...> elements")
    return names


def _table(arff: Path) -> tuple[list[str], list[bool], Array]:
    """Return attribute names, which are nominal, and the rows as (N, A) float64."""
    try:
        lines = arff.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{arff} cannot be read: {error}") from None
    names: list[str] = []
    nominal: list[bool] = []
    rows: list[list[float]] = []
    in_data = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("%"):
            continue
        if in_data:
            try:
                rows.append(_row(text, len(names)))
            except (ValueError, IndexError) as error:
                raise ManifestError(f"{arff}, line {number}: {error}") from None
        elif found := _ATTRIBUTE.match(text):
            names.append(re.sub(r"\\(.)", r"\1", next(group for group in found.groups()[:3] if group is not None)))
            kind = found[4].strip().lower()
            values = {value.strip(" '\"") for value in kind.strip("{}").split(",")}
            if kind not in _NUMERIC and not kind.startswith("{"):
                raise ManifestError(f"{arff}, line {number}: attributes of type {kind!r} are not read, only numbers")
            nominal.append(kind.startswith("{") and not values <= {"0", "1"})
        elif text.lower().startswith("@data"):
            in_data = True
    if not rows:
        raise ManifestError(f"{arff} has no row after @data")
    return names, nominal, np.array(rows)


def _row(text: str, width: int) -> list[float]:
    if not text.startswith("{"):
        values = [_number(part) for part in text.split(",")]
        if len(values) != width:
            raise ValueError(f"{len(values)} values for {width} attributes")
        return values
    row = [0.0] * width
    for part in text.strip("{} ").split(","):
        if part.strip():
            index, value = part.split()
            if int(index) < 0:
                raise ValueError(f"attribute {index} does not exist")
            row[int(index)] = _number(value)
    return row


def _number(text: str) -> float:
    text = text.strip(" '\"")
    return float("nan") if text == "?" else float(text)
