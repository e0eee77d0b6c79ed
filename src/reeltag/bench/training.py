"""What the training benchmarks share: pack once, train and evaluate a recipe over seeds, and time all of it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.data.pack import pack
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.inference.evaluate import evaluate, write_evaluation
from reeltag.inference.load import load_trained
from reeltag.store.atomic import write_json
from reeltag.store.scores import Scores

TIMES = "times.json"


@dataclass(frozen=True)
class TimedRun:
    """One trained and evaluated run: its folder, the scores of the split, the seconds of both, and torch's threads.

    `cpu_s` is what this process computed in both, on all its cores, so that what else a machine does counts for
    nothing; None for runs of an older version.
    """

    folder: Path
    scores: Scores
    train_s: float
    evaluate_s: float
    threads: int
    cpu_s: float | None = None


def packed(manifest: Path, out: Path, **options: Any) -> tuple[Path, float]:
    """Pack a manifest unless the shards are already there; returns the folder and the seconds it took."""
    started = time.monotonic()
    pack(Manifest.read(manifest), out, **options)
    return out, time.monotonic() - started


def train_and_evaluate(
    recipe: str, data: Path, out: Path, *, seed: int, split: str, console: Console, overrides: tuple[str, ...] = ()
) -> TimedRun:
    """Train one seed into `out/seed<seed>` and evaluate its last checkpoint on a split.

    A run that an earlier call finished is read, not trained again; its times are those of the first time.
    """
    folder = out / f"seed{seed}"
    if (folder / TIMES).exists():
        console.print(f"{folder} is there already")
        known = json.loads((folder / TIMES).read_text())
        return TimedRun(folder, Scores.read(folder / "scores" / f"{split}.parquet"), **known)
    started, computed = time.monotonic(), time.process_time()
    call = TrainCall(recipe, overrides, data, out, resume=(folder / "recipe.yaml").exists())
    train_recipe(call, seed, console, many=True)
    trained = time.monotonic()
    loaded = load_trained(str(folder))
    found = evaluate(loaded, open_footage(data), split=split)
    write_evaluation(found, loaded, folder)
    times: dict[str, Any] = {
        "train_s": trained - started,
        "evaluate_s": time.monotonic() - trained,
        "threads": torch.get_num_threads(),
        "cpu_s": time.process_time() - computed,
    }
    write_json(folder / TIMES, times)
    return TimedRun(folder, found.scores, **times)
