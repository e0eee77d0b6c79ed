"""Taggers on stored features against the end-to-end model that made the features: accuracy and minutes of training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.training import TIMES, train_and_evaluate
from reeltag.data.footage import FileFootage, PackedFootage, open_footage
from reeltag.data.importers import import_manifest
from reeltag.errors import ManifestError, StoreError
from reeltag.inference.extract import extract
from reeltag.inference.extractor import Extractor, build_extractor
from reeltag.inference.sound_extractor import SoundExtractor
from reeltag.metrics import METRICS
from reeltag.store.atomic import write_json
from reeltag.store.scores import Scores

RECIPE = "demo/frozen_features"
ALLOWED_LOSS = 0.01  # of map_macro, against the end-to-end model
ALLOWED_MINUTES = 2.0


@BENCHES.register("frozen")
def frozen(
    data: str = "runs/sibur/packed-authors",
    run: str = "runs/sibur/authors/seed0",
    out: str = "runs/frozen",
    seeds: int = 3,
    num_frames: int = 24,
    recipe: str = RECIPE,
    split: str = "val",
    control: str | None = "resnet18",
) -> dict[str, Any]:
    """Extract features with a trained model, train taggers on them, and compare with its own scores of the split.

    Args:
        data: a packed folder, a manifest, or a folder with the multilabel.csv of `reeltag bench sibur`.
        run: the run folder of the end-to-end model, evaluated on `split`.
        out: where features, runs and `frozen.json` go.
        seeds: taggers, from seed 0 on.
        num_frames: vectors a video.
        recipe: what to train on the features.
        split: what to score.
        control: a backbone with drawn weights whose features the same recipe is trained on; None leaves it out.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    scores = Path(run) / "scores" / f"{split}.parquet"
    if not scores.is_file():
        raise StoreError(
            f"{scores} does not exist; `reeltag evaluate {run} --manifest {data} --split {split}` writes it"
        )
    own = map_of(Scores.read(scores))
    made = build_extractor(run, num_frames=num_frames)
    result: dict[str, Any] = {
        "end_to_end": {"map_macro": own, "minutes": _minutes(Path(run))},
        "features": made.source.describe(),
        "frozen": _measure(made, data, folder / "trained", seeds, recipe, split, console),
    }
    if control is not None:
        drawn = build_extractor(control, num_frames=8, pretrained=False, crop_px=112)
        result["control"] = {
            "features": f"{drawn.source.describe()}, drawn weights",
            **_measure(drawn, data, folder / "drawn", 1, recipe, split, console),
        }
    found = result["frozen"]
    result["within_0.01"] = min(found["map_macro"]) >= own - ALLOWED_LOSS
    result["within_2_minutes"] = max(found["train_minutes"]) <= ALLOWED_MINUTES
    write_json(folder / "frozen.json", result)
    console.print_json(data=result)
    return result


def _measure(
    extractor: Extractor | SoundExtractor,
    data: str,
    folder: Path,
    seeds: int,
    recipe: str,
    split: str,
    console: Console,
) -> dict[str, Any]:
    started = time.monotonic()
    report = extract(extractor, _footage(Path(data)), folder / "features", note=console.print)
    extract_s = time.monotonic() - started
    if (folder / "extract.json").exists():  # the features were there already: keep the time that they took
        extract_s = json.loads((folder / "extract.json").read_text())["seconds"]
    write_json(folder / "extract.json", {"seconds": extract_s})
    runs = [
        train_and_evaluate(recipe, report.folder, folder / "runs", seed=seed, split=split, console=console)
        for seed in range(seeds)
    ]
    return {
        "videos": report.videos,
        "vectors": report.vectors,
        "megabytes": round(report.num_bytes / 1e6, 1),
        "extract_minutes": round(extract_s / 60, 2),
        "map_macro": [map_of(run.scores) for run in runs],
        "train_minutes": [round(run.train_s / 60, 2) for run in runs],
        "threads": runs[0].threads,
    }


def _footage(data: Path) -> FileFootage | PackedFootage:
    if (data / "multilabel.csv").is_file():
        return FileFootage(import_manifest(data / "multilabel.csv")[0])
    footage = open_footage(data)
    if not isinstance(footage, FileFootage | PackedFootage):
        raise ManifestError(f"{data} holds features; give the videos that they were made of")
    return footage


def map_of(scores: Scores) -> float:
    """Return macro AP over the labels of which the split has videos with and without."""
    targets = scores.targets
    assert targets is not None  # `evaluate` always stores the truth
    both = targets.any(0) & ~targets.all(0)
    return round(METRICS["map_macro"](scores.values[:, both], targets[:, both]), 4)


def _minutes(run: Path) -> float | None:
    if not (run / TIMES).is_file():
        return None
    times = json.loads((run / TIMES).read_text())
    return round((times["train_s"] + times["evaluate_s"]) / 60, 2)
