"""Real feature sets with several labels: the ARFF files of MULAN and a reduced MediaMill, with the splits to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reeltag.data.arff import read_mulan
from reeltag.errors import ReeltagError

Array: TypeAlias = npt.NDArray[Any]

GIVEN = ("emotions", "scene", "yeast")  # with a training and a test file
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Split:
    """One way to learn and test.

    Attributes:
        train_x: (N, D) features; `train_y`: (N, L) bool.
        test_x: (M, D) features; `test_y`: (M, L) bool.
    """

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def read_sets(folder: Path) -> dict[str, list[Split]]:
    """Return the splits of every set: one where training and test are given (four sets), five folds of CAL500.

    Args:
        folder: holds `NAME-train.arff`, `NAME-test.arff` and `NAME.xml` of emotions, scene and yeast,
            `cal500.arff` with its XML, and `mediamill_reduced.npz` (x_train, y_train, x_test, y_test).

    Raises:
        ReeltagError: one of them is missing or cannot be read.
    """
    sets = {}
    for name in GIVEN:
        train, test = (read_mulan(folder / f"{name}-{part}.arff", folder / f"{name}.xml") for part in ("train", "test"))
        sets[name] = [Split(train.features, train.targets, test.features, test.targets)]
    whole = read_mulan(folder / "cal500.arff", folder / "cal500.xml")
    sets["cal500"] = [
        Split(whole.features[~test], whole.targets[~test], whole.features[test], whole.targets[test])
        for test in folds_of(len(whole.features))
    ]
    try:
        with np.load(folder / "mediamill_reduced.npz") as arrays:
            parts = [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    except (OSError, KeyError, ValueError) as error:
        raise ReeltagError(f"{folder / 'mediamill_reduced.npz'} cannot be read: {error}") from None
    sets["mediamill"] = [Split(parts[0], parts[1].astype(bool), parts[2], parts[3].astype(bool))]
    return sets


def folds_of(count: int, seed: int = 0) -> list[Array]:
    """Return `FOLDS` masks (count,), each true on its fifth of a drawn order."""
    fold = np.random.default_rng(seed).permutation(count) % FOLDS
    return [fold == number for number in range(FOLDS)]
