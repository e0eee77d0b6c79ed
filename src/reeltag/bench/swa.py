"""What averaging weights adds: SWA against the checkpoints at the end of each of its own cycles, on MiniMoments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.training import packed
from reeltag.data.minimoments import write_minimoments
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.metrics import LOWER_IS_BETTER
from reeltag.store.atomic import write_json
from reeltag.store.run import RunFolder

COMPARED = ("map_macro", "map_micro", "gap_at_20", "ece")


@BENCHES.register("swa")
def swa(
    out: str = "runs/swa",
    train: int = 300,
    val: int = 3000,
    seeds: int = 5,
    first_seed: int = 0,
    data_seed: int = 0,
    recipe: str = "demo/quick",
    epochs: int = 60,
    from_epoch: int = 36,
    cycle_epochs: int = 4,
    lr_high: float = 2.0,
    lr_low: float = 0.5,
) -> dict[str, Any]:
    """Train a recipe with SWA over seeds and compare the average with the end of every cycle, by several metrics.

    The end of a cycle, where the rate is lowest, is scored as it is, with its own batch norms. All numbers are of the
    validation split, the best cycle's end is chosen on it, and the average is not: what chance there is in
    the comparison favours the checkpoints.

    Args:
        out: where the clips, shards and runs go.
        train: training clips; `val`: clips that are scored.
        seeds: runs, from `first_seed` on.
        first_seed: the first seed; with a second machine or core, another call does the others.
        data_seed: of the generated clips.
        recipe: what to train.
        epochs: of a run; `from_epoch`: where the cycles begin, `cycle_epochs`: how long each is.
        lr_high: rate at the begin of a cycle, `lr_low` at its end, as shares of the recipe's.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    manifest = folder / "data" / "manifest.csv"
    if not manifest.exists():
        write_minimoments(folder / "data", train, val, 0, seed=data_seed)
    shards, _ = packed(manifest, folder / "packed", store="raw", short_side_px=72)
    overrides = (
        f"train.epochs={epochs}",
        f"train.evaluate_every={cycle_epochs}",
        f"train.swa={{from_epoch: {from_epoch}, cycle_epochs: {cycle_epochs}, lr_high: {lr_high}, lr_low: {lr_low}}}",
    )
    runs = []
    for seed in range(first_seed, first_seed + seeds):
        path = folder / f"seed{seed}"
        call = TrainCall(recipe, overrides, shards, folder, resume=(path / "recipe.yaml").exists())
        train_recipe(call, seed, console, many=True)
        runs.append({"seed": seed, **compare(path, from_epoch)})
    result: dict[str, Any] = {
        "recipe": recipe,
        "train_clips": train,
        "val_clips": val,
        "epochs": epochs,
        "cycles": (epochs - from_epoch) // cycle_epochs,
        "lr_shares": [lr_high, lr_low],
        "runs": runs,
        "average_is_better_than": {
            metric: {
                what: f"{sum(_better(metric, run[metric], what) for run in runs)} of {len(runs)}"
                for what in ("best_end", "mean_end", "last_end")
            }
            for metric in COMPARED
        },
        "means": {
            metric: {
                what: round(float(np.mean([run[metric][what] for run in runs])), 4)
                for what in ("average", "best_end", "mean_end", "last_end")
            }
            for metric in COMPARED
        },
    }
    write_json(folder / "swa.json", result)
    console.print_json(data=result)
    return result


def _better(metric: str, values: dict[str, Any], what: str) -> bool:
    better: bool = values["average"] < values[what] if metric in LOWER_IS_BETTER else values["average"] > values[what]
    return better


def compare(run: Path, from_epoch: float) -> dict[str, Any]:
    """Return, by metric, the value of the averaged weights of a run, and those of its cycles' ends.

    Args:
        run: a finished run folder with SWA, validated at the end of each cycle.
        from_epoch: where its cycles begin.
    """
    lines = [line for line in RunFolder.open(run).metric_lines() if "val" in line]
    own = [line["val"] for line in lines if line["epoch"] > from_epoch and "weights" not in line]
    average = next(line["val"] for line in reversed(lines) if line.get("weights") == "average")
    found = {}
    for metric in COMPARED:
        ends = [values[metric] for values in own]
        found[metric] = {
            "average": round(average[metric], 4),
            "best_end": round(min(ends) if metric in LOWER_IS_BETTER else max(ends), 4),
            "mean_end": round(float(np.mean(ends)), 4),
            "last_end": round(ends[-1], 4),
            "ends": [round(value, 4) for value in ends],
        }
    return found
