"""What pictures, flow and sound of one file add to each other: single models, late fusion and a joint model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.minimoments import ROTATIONS
from reeltag.bench.training import TimedRun, packed, train_and_evaluate
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import write_flow
from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.data.minimoments import GROUPS, write_minimoments
from reeltag.inference.ensemble_fit import fit_ensemble
from reeltag.inference.evaluate import evaluate
from reeltag.inference.load import load_trained
from reeltag.metrics import METRICS
from reeltag.schema import MODALITIES
from reeltag.store.atomic import write_json
from reeltag.store.scores import Scores

Groups = Mapping[str, Sequence[str]]
RECIPES = {"rgb": "demo/tsm_mini", "flow": "demo/flow_mini", "audio": "demo/sound_mini", "joint": "demo/joint_mini"}


@dataclass(frozen=True)
class Trained:
    """The runs of one seed: a model a modality, and the joint model, which started from them."""

    single: dict[str, TimedRun]
    joint: TimedRun


@BENCHES.register("modalities")
def modalities(
    out: str = "runs/modalities", train: int = 2000, test: int = 400, seeds: int = 1, first_seed: int = 0,
    data_seed: int = 0, save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train on MiniMoments with pictures, flow and sound, alone and together, and print mean AP by kind of label.

    Args:
        out: where the clips, shards and runs go.
        train: training clips; `test`: test clips.
        seeds: of the runs, from `first_seed` on.
        first_seed: the first seed.
        data_seed: of the generated clips.
        save: a results file to write as well.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    manifest = folder / "data" / "manifest.csv"
    if not manifest.exists():
        write_minimoments(folder / "data", train, 0, test, seed=data_seed)
    shards, _ = packed(manifest, folder / "packed", store="raw", short_side_px=72)
    flow_s = flow_beside(manifest, shards, FlowSettings("dis", step=2, short_side_px=72, compute_px=112))
    groups = {
        **GROUPS,
        "motion_without_rotation": [name for name in GROUPS["motion"] if name not in ROTATIONS],
        "rotation": ROTATIONS,
    }
    result: dict[str, Any] = {"flow_s": round(flow_s, 1), "seeds": {}}
    for seed in range(first_seed, first_seed + seeds):
        trained = train_all(RECIPES, shards, folder, seed=seed, split="test", console=console)
        result["seeds"][str(seed)] = table(trained, shards, "test", groups)
        for path in (folder / "modalities.json", *([Path(save)] if save else [])):
            write_json(path, result)
    console.print_json(data=result)
    return result


def flow_beside(manifest: Path, shards: Path, settings: FlowSettings) -> float:
    """Store the flow of a manifest's files in `SHARDS/flow`, where training finds it; return the seconds it took."""
    started = time.monotonic()
    write_flow(Manifest.read(manifest), shards / "flow", settings)
    return time.monotonic() - started


def train_all(
    recipes: Mapping[str, str], shards: Path, out: Path, *, seed: int, split: str, console: Console,
    overrides: tuple[str, ...] = (),
) -> Trained:  # fmt: skip
    """Train and evaluate a model a modality, then the joint model from their weights; finished runs are read.

    Args:
        recipes: by modality, and `joint`.
        shards: a pack with sound, and with flow beside it.
        out: each recipe's runs go into a folder of its name.
        seed: of all runs.
        split: to evaluate on.
        console: where progress is shown.
        overrides: of all recipes.
    """

    def run(recipe: str, *more: str) -> TimedRun:
        folder = out / recipe.split("/")[-1]
        return train_and_evaluate(
            recipe, shards, folder, seed=seed, split=split, console=console, overrides=(*overrides, *more)
        )

    single: dict[str, TimedRun] = {name: run(recipes[name]) for name in MODALITIES}
    starts = (f"model.streams.{name}.pretrained={each.folder.resolve()}" for name, each in single.items())
    return Trained(single, run(recipes["joint"], *starts))


def table(trained: Trained, shards: Path, split: str, groups: Groups) -> dict[str, Any]:
    """Return mean AP by group of labels, over all videos: singles, late fusion, joint model, and each without one.

    A model that has nothing to look at says what the labels' shares are: a silent video counts in every row. All is
    given over the videos with sound as well (`with_sound`). Late fusion is `reeltag ensemble`'s, fitted on the
    scores of these videos: no weight is learned.
    """
    rows: dict[str, Any] = {}
    single = {name: run.scores for name, run in trained.single.items()}
    heard = [video for video, there in zip(single["audio"].video_ids, _covered(single["audio"]), strict=True) if there]

    def add(name: str, scores: Scores) -> None:
        rows[name] = {**by_group(scores, groups), "with_sound": by_group(scores.rows(heard), groups)}

    for name, scores in single.items():
        add(name, scores)
    add("rgb + flow", fused(single, ("rgb", "flow")))
    add("late", fused(single, MODALITIES))
    add("joint", trained.joint.scores)
    for gone in MODALITIES:
        add(f"late without {gone}", fused(single, [name for name in MODALITIES if name != gone]))
        loaded = load_trained(str(trained.joint.folder))
        add(f"joint without {gone}", evaluate(loaded, open_footage(shards), split=split, without=(gone,)).scores)
    minutes = {name: run.train_s + run.evaluate_s for name, run in trained.single.items()}
    minutes["joint"] = trained.joint.train_s + trained.joint.evaluate_s
    return {"map_macro": rows, "minutes": {name: round(value / 60, 2) for name, value in minutes.items()}}


def fused(single: Mapping[str, Scores], names: Sequence[str]) -> Scores:
    """Return the late fusion of some modalities' scores: the sum of their evidence, over those that a video has."""
    members = [(name, single[name]) for name in names]
    return fit_ensemble(members, method="mean", of="evidence").apply(members)


def by_group(scores: Scores, groups: Groups) -> dict[str, float]:
    """Return the mean AP of each group of labels, and of all."""
    targets = scores.targets
    assert targets is not None  # `evaluate` always stores the truth
    found = {"all": METRICS["map_macro"](scores.values, targets)}
    for group, names in groups.items():
        columns = [scores.label_names.index(name) for name in names]
        found[group] = METRICS["map_macro"](scores.values[:, columns], targets[:, columns])
    return {group: round(value, 4) for group, value in found.items()}


def _covered(scores: Scores) -> Any:
    return [True] * len(scores.video_ids) if scores.covered is None else scores.covered
