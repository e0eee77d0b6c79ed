"""The whole of reeltag in one call: make clips, train on three modalities, fuse, report, and tag an unseen clip."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from reeltag.bench.minimoments import measure
from reeltag.bench.training import TimedRun, packed, train_and_evaluate
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import write_flow
from reeltag.data.manifest import Manifest
from reeltag.data.minimoments import write_minimoments
from reeltag.errors import StoreError
from reeltag.inference.calibrate_model import ScoredOn, calibrate, model_scores
from reeltag.inference.ensemble_fit import fit_ensemble
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.report.from_runs import report_runs
from reeltag.schema import Tags


@dataclass(frozen=True)
class Size:
    """How large a demonstration is: its clips, and a recipe a modality."""

    train: int
    val: int
    test: int
    recipes: Mapping[str, str]
    tail: float


QUICK = Size(train=160, val=40, test=60, recipes={"rgb": "demo/quick", "audio": "demo/sound_mini"}, tail=1.0)
FULL = Size(
    train=2000,
    val=200,
    test=400,
    recipes={"rgb": "demo/tsm_mini", "flow": "demo/flow_mini", "audio": "demo/sound_mini"},
    tail=20.0,
)
FLOW = FlowSettings("dis", step=2, short_side_px=72, compute_px=112)


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration made.

    Attributes:
        report: the page; `runs`: a run folder a modality.
        ensemble: the file of the late fusion.
        tags: of one unseen clip, by the fusion; `truth`: the labels that it carries.
        measured: mean AP by group of labels, by modality and for the fusion.
        seconds: of everything.
    """

    report: Path
    runs: dict[str, Path]
    ensemble: Path
    tags: Tags
    truth: list[str]
    measured: dict[str, dict[str, float]]
    seconds: float


def run_demo(out: Path, *, quick: bool, console: Console, seed: int = 0) -> DemoResult:
    """Make MiniMoments, train a model a modality, fuse and calibrate them, write the report, and tag an unseen clip.

    Args:
        out: a new folder.
        quick: within a minute on two cores: a few clips, pictures and sound; else all of MiniMoments, and flow where
            the extra `flow` is installed.
        console: where progress is shown.
        seed: of the clips.

    Raises:
        StoreError: `out` already holds a demonstration.
    """
    if (out / "runs").exists():
        raise StoreError(f"{out} already holds a demonstration; give another --out, or remove it")
    size, started = QUICK if quick else FULL, time.monotonic()
    recipes = dict(size.recipes)
    if "flow" in recipes and importlib.util.find_spec("cv2") is None:
        console.print("no optical flow without its extra (`pip install 'reeltag\\[flow]'`): pictures and sound alone")
        del recipes["flow"]
    console.print(f"rendering {size.train + size.val + size.test} clips with known labels into {out / 'data'}")
    manifest = write_minimoments(out / "data", size.train, size.val, size.test, seed=seed, tail=size.tail)
    console.print("packing them, so that training reads pixels and not files")
    shards, _ = packed(manifest, out / "packed", store="raw", short_side_px=72)
    if "flow" in recipes:
        console.print("computing their optical flow")
        write_flow(Manifest.read(manifest), shards / "flow", FLOW)
    runs: dict[str, TimedRun] = {}
    for modality, recipe in recipes.items():
        console.print(f"training on {modality}: {recipe}")
        runs[modality] = train_and_evaluate(
            recipe, shards, out / "runs" / modality, seed=0, split="test", console=console
        )
    console.print("fusing and calibrating on the validation clips")
    members, folders = [(name, run.scores) for name, run in runs.items()], {n: run.folder for n, run in runs.items()}
    on = ScoredOn(shards, "val")
    ensemble = fit_ensemble([(name, model_scores(folder, on)) for name, folder in folders.items()], of="evidence")
    ensemble.write(out / "ensemble.json", list(folders.values()))
    calibrate(out / "ensemble.json", on)
    fused = ensemble.apply(members)
    fused.write(out / "fused.parquet")
    pages = [out / "fused.parquet", *folders.values()]
    report = report_runs(pages, out / "report.html", split="test", manifest=manifest)
    video, truth = _richest(manifest)
    tags = EnsembleTagger.from_file(out / "ensemble.json")(video)
    measured = {name: measure(scores) for name, scores in (*members, ("together", fused))}
    return DemoResult(report, folders, out / "ensemble.json", tags, truth, measured, time.monotonic() - started)


def _richest(manifest: Path) -> tuple[Path, list[str]]:
    """Return the test clip with the most labels, and these."""
    table = Manifest.read(manifest)
    tested = [row for row, split in enumerate(table.splits or ()) if split == "test"]
    row = max(tested, key=lambda each: len(table.labels[each]))
    return table.video_path(row), [table.label_names[label] for label in table.labels[row]]
