"""The run folder: what training writes and everything else reads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reeltag.errors import StoreError
from reeltag.recipe import Recipe, load_recipe
from reeltag.store.atomic import write_atomic, write_json
from reeltag.store.checkpoint import latest_checkpoint


class RunFolder:
    """One training run on disk: recipe, labels, checkpoints, metrics, bad files, scores, results and report.

    Args:
        path: the folder; `create` makes it, `open` expects it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.bad_files = path / "bad_files.jsonl"
        self.scores = path / "scores"
        self.results = path / "results.json"
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, recipe: Recipe, label_names: list[str], facts: dict[str, Any]) -> RunFolder:
        """Make a new run folder; StoreError when it already holds a run.

        Args:
            path: a folder that does not exist or has no recipe.yaml.
            recipe: the resolved recipe.
            label_names: L names, index order.
            facts: what else belongs to the run (manifest hash and path, counts).
        """
        if (path / "recipe.yaml").exists():
            raise StoreError(f"{path} already holds a run; add --resume to go on with it, or choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "labels.json", label_names)
        write_json(path / "run.json", facts)
        write_atomic(path / "recipe.yaml", recipe.to_yaml().encode())
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run folder; StoreError when there is none."""
        if not (path / "recipe.yaml").is_file():
            what = "is empty" if path.is_dir() and not any(path.iterdir()) else "holds no run"
            what = what if path.exists() else "does not exist"
            raise StoreError(f"{path} {what} (no recipe.yaml); `reeltag train RECIPE --out {path}` makes one")
        return cls(path)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return load_recipe(self.path / "recipe.yaml")

    @property
    def label_names(self) -> list[str]:
        """The L label names, index order."""
        names: list[str] = json.loads((self.path / "labels.json").read_text())
        return names

    @property
    def facts(self) -> dict[str, Any]:
        """What `create` was told beside recipe and labels."""
        facts: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return facts

    def checkpoint(self, which: str = "last") -> Path:
        """Return the folder of the `last` or the `best` checkpoint; StoreError when there is none."""
        if which not in ("last", "best"):
            raise StoreError(f"checkpoint must be 'last' or 'best', got {which!r}")
        path = latest_checkpoint(self.checkpoints) if which == "last" else self.best_checkpoint()
        if path is None:
            raise StoreError(f"{self.path} has no {which} checkpoint that is whole; train it first")
        return path

    def best_checkpoint(self) -> Path | None:
        """Return the checkpoint that validation liked best so far, or None."""
        latest = latest_checkpoint(self.checkpoints)
        if latest is None:
            return None
        name = json.loads((latest / "state.json").read_text()).get("best_checkpoint")
        path = self.checkpoints / name if name else latest
        return path if path.is_dir() else None

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "time": round(time.time(), 3)}) + "\n")

    def log_bad_file(self, line: dict[str, Any]) -> None:
        """Append one line to bad_files.jsonl."""
        with self.bad_files.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def metric_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines of metrics.jsonl; a line cut by a kill is passed over."""
        yield from _lines(self.metrics)

    def bad_file_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines of bad_files.jsonl."""
        yield from _lines(self.bad_files)

    def rewind(self, step: int, bad_rows: list[int]) -> None:
        """Drop the metric lines after `step` and the bad files not in `bad_rows`, which a resumed run writes again."""
        kept = [line for line in _lines(self.metrics) if line.get("step", 0) <= step]
        write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())
        bad = [line for line in _lines(self.bad_files) if line.get("row") in bad_rows]
        if self.bad_files.exists():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in bad)
            write_atomic(self.bad_files, text.encode())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def new_run_path(recipe_name: str, root: Path = Path("runs")) -> Path:
    """Return `runs/<recipe>/<date-time>`, with a number behind it when that is taken."""
    stem = root / Path(recipe_name).with_suffix("").name / time.strftime("%Y%m%d-%H%M%S")
    path, number = stem, 1
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path
