"""What the training benchmarks share: pack once, train and evaluate a recipe over seeds, and time all of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.data.pack import pack
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.inference.evaluate import evaluate, write_evaluation
from reeltag.inference.load import load_trained
from reeltag.store.scores import Scores


@dataclass(frozen=True)
class TimedRun:
    """One trained and evaluated run: its folder, the scores of the split, and the seconds that both took."""

    folder: Path
    scores: Scores
    train_s: float
    evaluate_s: float


def packed(manifest: Path, out: Path, **options: Any) -> tuple[Path, float]:
    """Pack a manifest unless the shards are already there; returns the folder and the seconds it took."""
    started = time.monotonic()
    pack(Manifest.read(manifest), out, **options)
    return out, time.monotonic() - started


def train_and_evaluate(
    recipe: str, data: Path, out: Path, *, seed: int, split: str, console: Console, overrides: tuple[str, ...] = ()
) -> TimedRun:
    """Train one seed into `out/seed<seed>` and evaluate its last checkpoint on a split."""
    started = time.monotonic()
    call = TrainCall(recipe, overrides, data, out)
    folder = Path(train_recipe(call, seed, console, many=True)["run"])
    trained = time.monotonic()
    loaded = load_trained(str(folder))
    found = evaluate(loaded, open_footage(data), split=split)
    write_evaluation(found, loaded, folder)
    return TimedRun(folder, found.scores, trained - started, time.monotonic() - trained)
