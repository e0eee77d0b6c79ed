"""`reeltag bench esc10`: real sounds in five folds, a small network, and what between-class learning adds to it.

Data: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015; the set ESC-10 of
github.com/karolpiczak/ESC-10 (CC BY 3.0; author and licence of each clip in its README). 400 sounds of about 5 s in ten
folders, one a class. A file's name begins with its fold; all clips of one recording are in one fold.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.training import TimedRun, packed, train_and_evaluate
from reeltag.data.importers import import_manifest
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError, RecipeError
from reeltag.metrics.folds import k_fold_accuracy
from reeltag.recipe import load_recipe
from reeltag.store.atomic import write_json

RECIPE = "demo/logmel_mini_esc10"
# What Tokozume, Ushiku, Harada (arXiv:1711.10282, table 1) compare: one network and schedule, four ways to make clips.
METHODS: dict[str, tuple[str, ...]] = {
    "plain": ("data.mix=null", "data.audio.speed=1", "data.audio.gain_db=0"),
    "bc": ("data.mix={name: between_class}", "data.audio.speed=1", "data.audio.gain_db=0"),
    "strong": ("data.mix=null", "data.audio.speed=1.25", "data.audio.gain_db=6"),
    "strong_bc": ("data.mix={name: between_class}", "data.audio.speed=1.25", "data.audio.gain_db=6"),
}
MINUTES = 30
_NAME = re.compile(r"([1-9])-")


@BENCHES.register("esc10")
def esc10(
    data: str = "esc10",
    out: str = "runs/esc10",
    save: str = "results/esc10.json",
    recipe: str = RECIPE,
    methods: list[str] | None = None,
    folds: list[int] | None = None,
    seeds: int = 3,
    first_seed: int = 0,
    epochs: float | None = None,
    workers: int = 2,
) -> dict[str, Any]:
    """Train on four folds and test on the fifth, for every fold and seed; print and write the errors in per cent.

    Runs that an earlier call finished are read, so that a call with other methods, folds or seeds adds to them.

    Args:
        data: the folder that holds a folder a class.
        out: where shards and runs go.
        save: the JSON file; a recipe that it does not hold yet is added to it.
        recipe: what to train, on sound.
        methods: of `METHODS`; by default the recipe as it is.
        folds: which ones to test on; all by default.
        seeds: runs a fold, from `first_seed` on.
        first_seed: the first seed.
        epochs: a shorter or longer schedule; its warm-up and milestones shrink or grow with it.
        workers: processes that decode while the sounds are packed, once for all runs.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    started = time.monotonic()
    manifest, why = import_manifest(Path(data))
    console.print(f"read as {why}", markup=False)
    fold_of = folds_of(manifest)
    chosen = _chosen(recipe, methods)
    shards = _packed_once(manifest, folder, load_recipe(recipe).data.audio.rate_hz, workers)
    prepared_s = time.monotonic() - started
    wanted = sorted(set(fold_of.tolist()) if folds is None else folds)
    stretch = scaled(recipe, epochs)
    name = Path(recipe).stem if epochs is None else f"{Path(recipe).stem}-{epochs:g}"
    rows: dict[str, Any] = {}
    for method, overrides in chosen.items():
        runs: dict[tuple[int, int], TimedRun] = {}
        for fold in wanted:
            place = fold_folder(shards, fold_of, fold)
            for seed in range(first_seed, first_seed + seeds):
                runs[fold, seed] = train_and_evaluate(
                    recipe, place, folder / name / method / f"fold{fold}", seed=seed, split="test", console=console,
                    overrides=(*overrides, *stretch),
                )  # fmt: skip
        rows[method] = measure(runs)
    result = {
        "recipe": recipe,
        "recipe_is": method_of(recipe),
        "epochs": load_recipe(recipe, stretch).train.epochs,
        "sounds": len(manifest),
        "prepare_s": round(prepared_s, 1),
        "methods": rows,
    }
    _save(Path(save), name, result)
    console.print_json(data=result)
    print(markdown(rows))
    return result


def folds_of(manifest: Manifest) -> NDArray[np.int64]:
    """Return (N,) the fold of each sound, the digit that its file's name begins with.

    Raises:
        ManifestError: a name without a fold, or fewer than two folds.
    """
    found = [_NAME.match(Path(path).name) for path in manifest.paths]
    for path, match in zip(manifest.paths, found, strict=True):
        if match is None:
            raise ManifestError(
                f"{path}: no fold in its name; ESC-10 names a file FOLD-RECORDING-TAKE.ogg, fold 1 to 5"
            )
    folds = np.array([int(match[1]) for match in found if match])
    if len(set(folds.tolist())) < 2:
        raise ManifestError(f"all {len(folds)} sounds are of fold {folds[0]}; nothing is left to train on")
    return folds


def _packed_once(manifest: Manifest, folder: Path, rate_hz: int, workers: int) -> Path:
    path = folder / "manifest.parquet"
    manifest.write(path)
    return packed(path, folder / f"packed-{rate_hz}", store="raw", audio_rate_hz=rate_hz, workers=workers)[0]


def fold_folder(shards: Path, fold_of: NDArray[np.int64], fold: int) -> Path:
    """Return a folder with the same shards, linked, and a manifest in which one fold is `test` and the rest `train`.

    Raises:
        RecipeError: there is no such fold.
        ManifestError: a sound could not be packed, so that folds would not be whole.
    """
    if fold not in fold_of:
        raise RecipeError(f"folds: there is no fold {fold}; the names tell of {sorted(set(fold_of.tolist()))}")
    manifest = Manifest.read(shards / "manifest.parquet")
    if len(manifest) != len(fold_of):
        bad = len(fold_of) - len(manifest)
        raise ManifestError(f"{bad} of {len(fold_of)} sounds could not be read; see {shards / 'bad_files.jsonl'}")
    place = shards.parent / f"{shards.name}-fold{fold}"
    place.mkdir(exist_ok=True)
    splits = tuple("test" if each == fold else "train" for each in folds_of(manifest).tolist())
    replace(manifest, splits=splits).write(place / "manifest.parquet")
    for path in (*shards.glob("shard-*.tar"), shards / "shards.json"):
        linked = place / path.name
        if not linked.exists():
            try:
                os.link(path, linked)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, linked)
    return place


def measure(runs: dict[tuple[int, int], TimedRun]) -> dict[str, Any]:
    """Return the errors of the runs of one method, by (fold, seed), their mean and spread, and the time they took.

    `error` is the mean over folds and seeds and `error_by_seed` that over folds; `sd_over_seeds` the sample deviation
    of these. Minutes are those of training and testing together: `minutes` by the clock, `core_minutes` of computing.
    """
    folds, seeds = sorted({fold for fold, _ in runs}), sorted({seed for _, seed in runs})
    errors: dict[str, dict[str, float]] = {str(fold): {} for fold in folds}
    by_seed = []
    for seed in seeds:
        scores = [runs[fold, seed].scores for fold in folds]
        truth = [one.targets for one in scores if one.targets is not None]  # `evaluate` always stores the truth
        found = k_fold_accuracy(
            np.concatenate([one.values for one in scores]),
            np.concatenate(truth).argmax(1),
            np.repeat(folds, [len(one.values) for one in scores]),
        )
        for fold in folds:
            errors[str(fold)][str(seed)] = round(100 * (1 - found.values[fold]), 2)
        by_seed.append(100 * (1 - found.mean))
    wall_s = sum(run.train_s + run.evaluate_s for run in runs.values())
    cpu = [run.cpu_s for run in runs.values() if run.cpu_s is not None]
    return {
        "error": round(float(np.mean(by_seed)), 2),
        "error_by_seed": [round(error, 2) for error in by_seed],
        "sd_over_seeds": round(float(np.std(by_seed, ddof=1)), 2) if len(by_seed) > 1 else None,
        "errors": errors,
        "runs": len(runs),
        "minutes": round(wall_s / 60, 1),
        "core_minutes": round(sum(cpu) / 60, 1) if len(cpu) == len(runs) else None,
        "threads": sorted({run.threads for run in runs.values()}),
    }


def method_of(recipe: str) -> str | None:
    """Return which of `METHODS` a recipe is as it stands, None when it is none of them."""
    own = load_recipe(recipe)
    return next((name for name, overrides in METHODS.items() if load_recipe(recipe, overrides).hash == own.hash), None)


def _chosen(recipe: str, methods: list[str] | None) -> dict[str, tuple[str, ...]]:
    if methods is None:
        return {method_of(recipe) or "recipe": ()}
    for name in methods:
        if name not in METHODS:
            raise RecipeError(f"methods: {name!r} is not among {', '.join(METHODS)}")
    return {name: METHODS[name] for name in methods}


def scaled(recipe: str, epochs: float | None) -> tuple[str, ...]:
    """Return the overrides that stretch a recipe's schedule to `epochs`; none when it is None."""
    if epochs is None:
        return ()
    train = load_recipe(recipe).train
    share = epochs / train.epochs
    milestones = [round(milestone * share, 3) for milestone in train.milestones]
    warmup = round(train.warmup_epochs * share, 3)
    return f"train.epochs={epochs}", f"train.warmup_epochs={warmup}", f"train.milestones={milestones}"


def _save(path: Path, name: str, result: dict[str, Any]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    methods = {**known.get(name, {}).get("methods", {}), **result["methods"]}
    write_json(path, {**known, name: {**result, "methods": methods}})


def markdown(rows: dict[str, Any]) -> str:
    """Return the table of methods: error in per cent, its deviation over seeds, and the time of all their runs."""
    lines = ["| method | error % | over seeds | runs | core minutes |", "|---|---|---|---|---|"]
    for method, row in rows.items():
        lines.append(
            f"| {method} | {row['error']:.2f} | {row['sd_over_seeds']} | {row['runs']} | {row['core_minutes']} |"
        )
    return "\n".join(lines)
