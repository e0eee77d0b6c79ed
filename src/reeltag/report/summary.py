"""What a report reads of a run folder or a score file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reeltag.errors import StoreError
from reeltag.store.calibration import CALIBRATION_FILE, Calibration
from reeltag.store.run import RunFolder
from reeltag.store.scores import Scores

_SPLIT_ORDER = ("test", "val", "train")


@dataclass(frozen=True)
class RunSummary:
    """One run, or one score file, as the report shows it.

    Attributes:
        name: heading of its part of the page.
        recipe_text: recipe.yaml as it was resolved; empty for a score file.
        recipe: the same, parsed.
        train_lines: lines of metrics.jsonl with a `loss`.
        val_lines: lines of metrics.jsonl with a `val`.
        bad_files: lines of bad_files.jsonl.
        scores: split -> score file.
        results: results.json, or empty.
        calibration: of the run, if it has one.
    """

    name: str
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    train_lines: list[dict[str, Any]] = field(default_factory=list)
    val_lines: list[dict[str, Any]] = field(default_factory=list)
    bad_files: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def reported(self) -> dict[str, float]:
        """Metric name -> the value that the recipe's source published, as it stands there."""
        source = self.recipe.get("source") or {}
        reported = source.get("reported") if isinstance(source, dict) else None
        return {str(k): v for k, v in reported.items() if _is_number(v)} if isinstance(reported, dict) else {}

    @property
    def split(self) -> str | None:
        """The split that the details are about: test, else val, else whatever there is with truth."""
        known = [split for split, scores in self.scores.items() if scores.targets is not None]
        return min(known, key=lambda s: (_SPLIT_ORDER.index(s) if s in _SPLIT_ORDER else 3, s), default=None)


def read_run(path: Path) -> RunSummary:
    """Read a run folder, or a score file alone.

    Raises:
        StoreError: `path` is neither, or a score file in it is damaged.
    """
    if path.is_file():
        scores = Scores.read(path)
        return RunSummary(name=path.stem, scores={scores.split or path.stem: scores})
    run = RunFolder.open(path)
    text = (path / "recipe.yaml").read_text(encoding="utf-8")
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StoreError(f"{path / 'recipe.yaml'} is not YAML: {str(error).splitlines()[0]}") from error
    lines = list(run.metric_lines())
    results = {}
    if run.results.is_file():
        try:
            results = json.loads(run.results.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(f"{run.results} is not JSON: {error}; run `reeltag evaluate {path}` again") from error
    return RunSummary(
        name=f"{path.resolve().parent.name}/{path.resolve().name}",
        recipe_text=text,
        recipe=recipe if isinstance(recipe, dict) else {},
        train_lines=[line for line in lines if _is_number(line.get("loss"))],
        val_lines=[line for line in lines if isinstance(line.get("val"), dict)],
        bad_files=list(run.bad_file_lines()),
        scores={file.stem: Scores.read(file) for file in sorted(run.scores.glob("*.parquet"))},
        results=results if isinstance(results, dict) else {},
        calibration=Calibration.read(path, run.label_names) if (path / CALIBRATION_FILE).is_file() else None,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
