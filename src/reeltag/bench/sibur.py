"""Real video: the railway-ramp clips of a 2023 challenge, on the authors' split and on a place held out.

Data: github.com/LawrenceGrigoryan/tank-state-video-classification (MIT), 496 clips, with a table `multilabel.csv` of 13
binary labels made from the authors' columns. Four of the labels are the challenge's actions.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.training import TimedRun, packed, train_and_evaluate
from reeltag.data.importers import import_manifest
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError
from reeltag.metrics import METRICS
from reeltag.metrics.argmax_f1 import argmax_f1, argmax_f1_interval
from reeltag.recipe import load_recipe
from reeltag.store.atomic import write_json
from reeltag.store.scores import Scores

RECIPE = "demo/tsm_resnet18_112"
ACTIONS = ("bridge_down", "bridge_up", "no_action", "train_in_out")
HELD_OUT = "gate"  # the one place whose clips show all four actions often enough to be measured


@BENCHES.register("sibur")
def sibur(
    data: str = "sibur",
    out: str = "runs/sibur",
    seeds: int = 3,
    first_seed: int = 0,
    split: str = "authors",
    recipe: str = RECIPE,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Import, pack, train and evaluate; print macro-F1 over the actions with its interval, and macro AP.

    Args:
        data: the folder that holds multilabel.csv and the videos.
        out: where manifests, shards and runs go.
        seeds: runs, from `first_seed` on.
        first_seed: the first seed; with a second machine or core, another call does the others.
        split: `authors`, or `location`: train on the other places and test on `HELD_OUT`.
        recipe: what to train.
        epochs: a shorter or longer schedule; its stages and warm-up shrink or grow with it.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    if split not in ("authors", "location"):
        raise ManifestError(f"split={split!r}: allowed are authors and location")
    started = time.monotonic()
    manifest, why = import_manifest(Path(data) / "multilabel.csv")
    console.print(f"read as {why}", markup=False)
    if split == "location":
        manifest = hold_out(manifest, HELD_OUT)
    path = folder / f"{split}.parquet"
    manifest.write(path)
    shards, _ = packed(path, folder / f"packed-{split}", store="raw", short_side_px=128, max_frames=32)
    prepared_s = time.monotonic() - started
    overrides = (f"data.balance_labels=[{', '.join(ACTIONS)}]", *scaled(recipe, epochs))
    runs = [
        train_and_evaluate(recipe, shards, folder / split, seed=seed, split="val", console=console, overrides=overrides)
        for seed in range(first_seed, first_seed + seeds)
    ]
    result: dict[str, Any] = {
        "split": split if split == "authors" else f"{HELD_OUT} held out",
        "epochs": epochs or load_recipe(recipe).train.epochs,
        "prepare_s": round(prepared_s, 1),
        "runs": [_measure(run, prepared_s) for run in runs],
    }
    for name in ("action_macro_f1", "map_macro", "minutes"):
        values = [run[name] for run in result["runs"]]
        result[f"mean_{name}"] = round(float(np.mean(values)), 4)
    write_json(folder / f"{split}.json", result)
    console.print_json(data=result)
    return result


def scaled(recipe: str, epochs: int | None) -> tuple[str, ...]:
    """Return the overrides that stretch a recipe's schedule to `epochs`; none when it is None."""
    if epochs is None:
        return ()
    whole = load_recipe(recipe)
    share = epochs / whole.train.epochs
    stages = [{**stage.model_dump(), "from_epoch": round(stage.from_epoch * share)} for stage in whole.data.stages]
    warmup = round(whole.train.warmup_epochs * share, 3)
    return f"train.epochs={epochs}", f"train.warmup_epochs={warmup}", f"data.stages={json.dumps(stages)}"


def hold_out(manifest: Manifest, place: str) -> Manifest:
    """Return the manifest with the clips of one place as `val` and all others as `train`."""
    column = manifest.label_names.index(place)
    return replace(manifest, splits=tuple("val" if column in labels else "train" for labels in manifest.labels))


def _measure(run: TimedRun, prepared_s: float) -> dict[str, Any]:
    scores, truth = actions_of(run.scores)
    f1 = argmax_f1(scores, truth)
    interval = argmax_f1_interval(scores, truth)
    targets = run.scores.targets
    assert targets is not None  # `evaluate` always stores the truth
    both = targets.any(0) & ~targets.all(0)
    return {
        "seed": int(run.folder.name.removeprefix("seed")),
        "action_macro_f1": round(f1.macro, 4),
        "interval_95": [round(interval.low, 4), round(interval.high, 4)],
        "f1_by_action": dict(zip(ACTIONS, (round(float(value), 4) for value in f1.per_class), strict=True)),
        "map_macro": round(METRICS["map_macro"](run.scores.values[:, both], targets[:, both]), 4),
        "labels_with_both_classes": int(both.sum()),
        "minutes": round((prepared_s + run.train_s + run.evaluate_s) / 60, 2),
        "threads": run.threads,
    }


def actions_of(scores: Scores) -> tuple[Any, Any]:
    """Return the (N, 4) scores of the actions and the (N,) index of the true one."""
    columns = [scores.label_names.index(name) for name in ACTIONS]
    assert scores.targets is not None
    return scores.values[:, columns], scores.targets[:, columns].argmax(1)
