"""What the temporal shift adds, on clips with known causes: TSN against TSM on MiniMoments at one budget."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.training import packed, train_and_evaluate
from reeltag.data.minimoments import GROUPS, REVERSALS, write_minimoments
from reeltag.metrics import METRICS
from reeltag.store.atomic import write_json
from reeltag.store.scores import Scores

RECIPES = ("demo/tsn_mini", "demo/tsm_mini")
ROTATIONS = ("motion_clockwise", "motion_counter_clockwise")


@BENCHES.register("minimoments")
def minimoments(
    out: str = "runs/minimoments",
    train: int = 2000,
    test: int = 400,
    seeds: int = 3,
    first_seed: int = 0,
    data_seed: int = 0,
    recipes: str = ",".join(RECIPES),
    merge: str | None = None,
) -> dict[str, Any]:
    """Render and pack MiniMoments, train recipes over seeds, and print mean AP by kind of label.

    `OUT/minimoments.json` gathers the runs of all calls with this `out`.

    Args:
        out: where the clips, shards and runs go.
        train: training clips; `test`: test clips.
        seeds: runs of each recipe, from `first_seed` on.
        first_seed: the first seed; with a second machine or core, another call does the others.
        data_seed: of the generated clips.
        recipes: what to train, by names with commas between.
        merge: a results file that takes the runs of this call as well; its other runs stay.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    started = time.monotonic()
    manifest = folder / "data" / "manifest.csv"
    if not manifest.exists():
        write_minimoments(folder / "data", train, 0, test, seed=data_seed)
    rendered_s = time.monotonic() - started
    shards, packed_s = packed(manifest, folder / "packed", store="raw", short_side_px=72)
    result: dict[str, Any] = {"render_s": round(rendered_s, 1), "pack_s": round(packed_s, 1), "runs": {}}
    for recipe in recipes.split(","):
        name = recipe.split("/")[-1]
        result["runs"][name] = []
        for seed in range(first_seed, first_seed + seeds):
            run = train_and_evaluate(recipe, shards, folder / name, seed=seed, split="test", console=console)
            minutes = round((run.train_s + run.evaluate_s) / 60, 2)
            measured = {**measure(run.scores), "minutes": minutes, "threads": run.threads}
            result["runs"][name].append({"seed": seed, **measured})
    for file in (folder / "minimoments.json", *([Path(merge)] if merge else [])):
        known = json.loads(file.read_text()) if file.exists() else {}
        merged = merged_runs(known, result)
        write_json(file, merged)
    console.print_json(data=merged)
    return merged


def measure(scores: Scores) -> dict[str, float]:
    """Return the mean AP of each group of labels and the direction AUC of each reversal pair of motions."""
    columns = {name: index for index, name in enumerate(scores.label_names)}
    targets = scores.targets
    assert targets is not None  # `evaluate` always stores the truth
    groups = {**GROUPS, "motion_without_rotation": [name for name in GROUPS["motion"] if name not in ROTATIONS]}
    found = {}
    for group, names in groups.items():
        chosen = [columns[name] for name in names]
        found[group] = round(METRICS["map_macro"](scores.values[:, chosen], targets[:, chosen]), 4)
    for first in GROUPS["motion"][::2]:
        second = REVERSALS[first]
        pair = (columns[first], columns[second])
        name = f"auc_{first.removeprefix('motion_')}_{second.removeprefix('motion_')}"
        found[name] = round(direction_auc(scores.values[:, pair], targets[:, pair]), 4)
    return found


def merged_runs(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a results file's content with further runs: a new one takes the place of that of its recipe and seed.

    Args:
        known: the content of the file, `{}` at first. Runs without a seed are those of seeds 0, 1, ...
        new: `runs` by recipe, each run with its seed; other keys are kept from the first call.

    Returns:
        `runs` sorted by seed, and beside it the mean of each recipe's runs.
    """
    by_recipe: dict[str, dict[int, dict[str, float]]] = {}
    for content in (known, new):
        for name, runs in content.get("runs", {}).items():
            seeds = by_recipe.setdefault(name, {})
            seeds.update({run.get("seed", index): {"seed": index, **run} for index, run in enumerate(runs)})
    runs = {name: [seeds[seed] for seed in sorted(seeds)] for name, seeds in by_recipe.items()}
    return {**new, **known, "runs": runs, **{name: _mean(each) for name, each in runs.items()}}


def direction_auc(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return how often the first label outscores the second more on its own clips than on the other's.

    Args:
        scores: (N, 2) probabilities of a label and of its reversal.
        targets: (N, 2), 0 or 1; clips that carry exactly one of the two count.

    Returns:
        The area under the ROC curve of the difference of logits, in [0, 1]; 0.5 is chance.
    """
    one = targets.sum(1) == 1
    clipped = np.clip(scores[one].astype(np.float64), 1e-9, 1 - 1e-9)
    logits = np.log(clipped / (1 - clipped))
    difference, is_first = logits[:, 0] - logits[:, 1], targets[one, 0] == 1
    wins = difference[is_first][:, None] - difference[~is_first][None, :]  # (positives, negatives)
    return float(np.mean((wins > 0) + 0.5 * (wins == 0)))


def _mean(runs: list[dict[str, float]]) -> dict[str, float]:
    names = [name for name in runs[0] if name != "seed"]
    return {name: round(float(np.mean([run[name] for run in runs])), 4) for name in names}
