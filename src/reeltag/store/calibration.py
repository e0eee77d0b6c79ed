"""The calibration of a tagger: a line through the logits of each label, and the score from which it is present."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from reeltag.errors import StoreError
from reeltag.sections import Section
from reeltag.store.atomic import write_json

Array: TypeAlias = npt.NDArray[Any]
CALIBRATION_FILE, THRESHOLDS_FILE = "calibration.json", "thresholds.json"
DEFAULT_THRESHOLD = 0.5
LOWEST, HIGHEST = 1e-12, 1 - 2.0**-24  # what float32 tells apart from 0 and from 1, about


def logits_of(probabilities: Array) -> Array:
    """Return the logits, float64, of probabilities; 0 and 1 become the nearest that float32 tells apart from them."""
    kept = np.clip(probabilities.astype(np.float64), LOWEST, HIGHEST)
    logits: Array = np.log(kept) - np.log1p(-kept)
    return logits


class Calibration(Section):
    """What turns a model's probabilities into ones that can be taken at their word, and into decisions.

    The calibrated probability of a label is sigmoid(slope * logit(probability) + shift), of the probability of a whole
    video, that is after its views were averaged. Slopes are positive, so that no ranking of videos within a label
    changes; with one slope for all labels and no shifts no ranking at all does.

    Attributes:
        method: `none`, `temperature` (slopes 1 / T, no shifts) or `platt` (see `reeltag.inference.calibrate`).
        label_names: L names, in the order of the other lists.
        slopes: L numbers > 0.
        shifts: L numbers.
        thresholds: L calibrated probabilities from which a label counts as present.
        rule: how the thresholds were chosen.
        goal: what they were chosen for.
        weights_hash: of the model whose scores it was fitted on; empty = of any.
        split: of these scores; `manifest_hash` likewise, and `videos` their number.
        measured: by name of a choice, what it measured on videos that it was not fitted on.
    """

    format: Literal["reeltag calibration 1"] = "reeltag calibration 1"
    method: Literal["none", "temperature", "platt"] = "none"
    label_names: Annotated[list[str], Field(min_length=1)]
    slopes: list[Annotated[float, Field(gt=0)]]
    shifts: list[float]
    thresholds: list[Annotated[float, Field(ge=0, le=1)]]
    rule: str = "half"
    goal: str = "f1_micro"
    weights_hash: str = ""
    split: str = ""
    manifest_hash: str = ""
    videos: int = 0
    measured: dict[str, dict[str, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_each_label(self) -> Calibration:
        lengths = [len(self.slopes), len(self.shifts), len(self.thresholds)]
        if any(length != len(self.label_names) for length in lengths):
            raise ValueError(f"{len(self.label_names)} labels, but {lengths} slopes, shifts and thresholds")
        return self

    @property
    def changes_scores(self) -> bool:
        """Whether any probability comes out other than it went in."""
        return any(slope != 1 for slope in self.slopes) or any(shift != 0 for shift in self.shifts)

    @property
    def does_something(self) -> bool:
        """Whether it changes a probability or a decision at 0.5."""
        return self.changes_scores or any(threshold != DEFAULT_THRESHOLD for threshold in self.thresholds)

    def apply(self, probabilities: Array) -> Array:
        """Return calibrated probabilities, float32, of (..., L) probabilities; unchanged where nothing changes them."""
        if not self.changes_scores:
            return probabilities
        logits = np.array(self.slopes) * logits_of(probabilities) + np.array(self.shifts)
        return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)

    def write(self, folder: Path) -> None:
        """Write `thresholds.json`, label to threshold, and `calibration.json`, all the rest, into a model's folder."""
        write_json(folder / THRESHOLDS_FILE, dict(zip(self.label_names, self.thresholds, strict=True)))
        write_json(folder / CALIBRATION_FILE, self.model_dump(mode="json", exclude={"thresholds"}))

    @classmethod
    def read(cls, folder: Path, label_names: list[str]) -> Calibration | None:
        """Read what `write` wrote; None where the folder has neither file.

        A label that `thresholds.json` does not name gets 0.5. The file may be edited, or stand alone.

        Raises:
            StoreError: a file is damaged, or speaks of other labels.
        """
        thresholds = _thresholds(folder / THRESHOLDS_FILE, label_names)
        path = folder / CALIBRATION_FILE
        if not path.is_file():
            if thresholds is None:
                return None
            even, zeros = [1.0] * len(label_names), [0.0] * len(label_names)
            return cls(label_names=label_names, slopes=even, shifts=zeros, thresholds=thresholds, rule="given")
        try:
            known = {"thresholds": thresholds or [DEFAULT_THRESHOLD] * len(label_names)}
            found = cls.model_validate({**json.loads(path.read_text(encoding="utf-8")), **known})
        except (ValidationError, ValueError, TypeError, OSError) as error:
            raise StoreError(f"{path} is no calibration ({_detail(error)}); `reeltag calibrate` writes it") from None
        if found.label_names != label_names:
            raise StoreError(f"{path} speaks of other labels than the model, or in another order; calibrate again")
        return found


def _thresholds(path: Path, label_names: list[str]) -> list[float] | None:
    if not path.is_file():
        return None
    try:
        values: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        thresholds = [float(values.get(name, DEFAULT_THRESHOLD)) for name in label_names]
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise StoreError(f"{path} is not a JSON file of the form {{label: threshold}} ({_detail(error)})") from None
    for name, value in zip(label_names, thresholds, strict=True):
        if not 0 <= value <= 1:
            raise StoreError(f"{path} gives {name!r} the threshold {value}; it is a probability, from 0 to 1")
    return thresholds


def _detail(error: Exception) -> str:
    if isinstance(error, ValidationError):  # whose first line is but a count
        first = error.errors()[0]
        return ": ".join([*map(str, first["loc"]), first["msg"]])
    return str(error).splitlines()[0]
