"""Checking an exported file against its model on real clips or drawn inputs, and timing the two in pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reeltag.build import build_datasets, rows_of
from reeltag.data.dataset import in_order, make_loader
from reeltag.data.footage import Footage
from reeltag.errors import ReeltagError, StoreError, TooManyBadFiles
from reeltag.inference.export.capture import reason_of
from reeltag.inference.export.exporting import Exported
from reeltag.inference.export.network import draw
from reeltag.inference.export.trial import ExportedFile
from reeltag.inputs import check_input, modalities_of
from reeltag.models.scoring import average_views, model_inputs

TOLERANCE = 1e-4  # of a probability
_PAIRS, _MOST_S = 30, 5.0
_DRAWN = 16


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        on: `clips` or `drawn inputs`.
        num_videos: compared.
        largest: difference of a probability, the average over views.
        num_decisions: labels times videos; `num_equal`: of them present in both or in neither.
        ms_model: median milliseconds of the model for one view, fp32 on the CPU; `ms_file`: of the file.
        bad: the files that could not be read.
        absent: videos that have nothing of what the model takes.
    """

    on: str
    num_videos: int
    largest: float
    num_decisions: int
    num_equal: int
    ms_model: float
    ms_file: float
    bad: list[dict[str, Any]] = field(default_factory=list)
    absent: int = 0

    def holds(self, tolerance: float = TOLERANCE) -> bool:
        """Return whether no probability differs by more than `tolerance`, and every file could be read."""
        return self.largest <= tolerance and not self.bad


def check(
    exported: Exported,
    opened: ExportedFile,
    footage: Footage | None = None,
    *,
    split: str = "val",
    at_most: int | None = None,
    progress: Callable[[Any], Iterable[Any]] = iter,
) -> Checked:
    """Compare a file with the model it was written from.

    Args:
        exported: what `export` returned.
        opened: the file.
        footage: real clips, whose test views are compared; None takes drawn inputs.
        split: which clips; `all` takes every one.
        at_most: this many of them, from the first on.
        progress: wraps the iterable of videos, for a progress bar.

    Raises:
        StoreError: the clips have other labels than the model.
        RecipeError: the model does not fit the footage.
        TooManyBadFiles: nothing could be compared.
    """
    bad: list[dict[str, Any]] = []
    absent: list[int] = []
    source = _drawn(exported) if footage is None else _clips(exported, footage, split, at_most, bad, absent)
    test, trained = exported.loaded.trained.recipe.test, exported.loaded.trained
    thresholds = torch.tensor(trained.thresholds)
    largest, equal, videos = 0.0, 0, 0
    first: tuple[Tensor, ...] | None = None
    for values in progress(source):
        with torch.inference_mode():
            _, ours = exported.network(*values)
        try:
            _, theirs = opened(values)
        except Exception as error:  # whatever the runtime raises
            shapes = ", ".join(
                f"{each.name} {tuple(value.shape)}" for each, value in zip(exported.inputs, values, strict=True)
            )
            raise ReeltagError(
                f"{exported.path} does not run on a clip of {shapes}: {reason_of(error)}; cut or pad clips to the "
                "shapes that it states"
            ) from error
        one, other = (
            exported.network.of_probabilities(average_views(each.unsqueeze(0), test.average, test.activation)[0])
            for each in (ours, theirs)
        )
        largest = max(largest, _largest(one, other))
        equal += int(((one >= thresholds) == (other >= thresholds)).sum())
        videos += 1
        first = first or tuple(each[:1] for each in values)
    if first is None:
        raise TooManyBadFiles(f"no clip of the split {split!r} could be compared: {len(bad)} bad, {len(absent)} absent")
    ms_model, ms_file = paired_ms(lambda: exported.network(*first), lambda: opened(first))
    on = "drawn inputs" if footage is None else "clips"
    decisions = videos * len(trained.label_names)
    return Checked(on, videos, largest, decisions, equal, ms_model, ms_file, bad, len(absent))


def _largest(one: Tensor, other: Tensor) -> float:
    found = float((one - other).abs().max())
    return found if found == found else float("inf")  # a NaN would pass every comparison


def _drawn(exported: Exported) -> list[tuple[Tensor, ...]]:
    return [draw(exported.inputs, 1, seed=seed) for seed in range(_DRAWN)]


def _clips(
    exported: Exported, footage: Footage, split: str, at_most: int | None, bad: list[dict[str, Any]], absent: list[int]
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the inputs of each video, its views as a batch; fills `bad` and `absent` on the way."""
    loaded, manifest = exported.loaded, footage.manifest
    if list(manifest.label_names) != loaded.trained.label_names:
        raise StoreError(
            f"{loaded.trained.path} knows {len(loaded.trained.label_names)} labels, the manifest "
            f"{len(manifest.label_names)} others; check with a manifest of its labels"
        )
    recipe = loaded.trained.recipe
    check_input(loaded.model, recipe, footage)
    dataset = build_datasets(recipe, footage, modalities_of(recipe, loaded.model))[1]
    rows = list(range(len(manifest))) if split == "all" else rows_of(manifest, split)
    for batch in make_loader(dataset, in_order(rows[:at_most], 1), workers=0):
        bad += batch["bad"]
        absent += batch.get("absent", [])
        if len(batch["rows"]):
            yield exported.network.inputs_from(model_inputs(loaded.model, batch))


def paired_ms(model: Callable[[], Any], file: Callable[[], Any]) -> tuple[float, float]:
    """Return the median milliseconds of two functions, called in turns so that a busy machine slows both alike."""
    times: tuple[list[float], list[float]] = [], []
    for function in (model, file):
        function()  # the first call prepares
    end = time.perf_counter() + _MOST_S
    while len(times[0]) < 3 or (len(times[0]) < _PAIRS and time.perf_counter() < end):
        for function, spent in zip((model, file), times, strict=True):
            start = time.perf_counter()
            with torch.inference_mode():
                function()
            spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])
