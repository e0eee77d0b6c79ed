"""The whole of reeltag in one call: make clips, train on three modalities, fuse, report, and tag an unseen clip."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from reeltag.bench.minimoments import measure
from reeltag.bench.training import TimedRun, packed, train_and_evaluate
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import write_flow
from reeltag.data.manifest import Manifest
from reeltag.data.minimoments import write_minimoments
from reeltag.errors import MediaError, StoreError
from reeltag.inference.ensemble import Ensemble
from reeltag.inference.ensemble_fit import fit_ensemble
from reeltag.inference.predict import Tagger
from reeltag.report.from_runs import report_runs
from reeltag.schema import Tags
from reeltag.store.scores import Scores


@dataclass(frozen=True)
class Size:
    """How large a demonstration is: its clips, and a recipe a modality."""

    train: int
    test: int
    recipes: Mapping[str, str]
    tail: float


QUICK = Size(train=160, test=60, recipes={"rgb": "demo/quick", "audio": "demo/sound_mini"}, tail=1.0)
FULL = Size(
    train=2000,
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
    """Make MiniMoments, train a model a modality, fuse them, write the report and tag an unseen clip.

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
    console.print(f"rendering {size.train + size.test} clips with known labels into {out / 'data'}")
    manifest = write_minimoments(out / "data", size.train, 0, size.test, seed=seed, tail=size.tail)
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
    members = [(name, run.scores) for name, run in runs.items()]
    ensemble = fit_ensemble(members, method="mean", of="evidence")
    ensemble.write(out / "ensemble.json")
    fused = ensemble.apply(members)
    fused.write(out / "fused.parquet")
    folders = {name: run.folder for name, run in runs.items()}
    pages = [out / "fused.parquet", *folders.values()]
    report = report_runs(pages, out / "report.html", split="test", manifest=manifest)
    tags, truth = _tag_unseen(manifest, folders, ensemble)
    measured = {name: measure(scores) for name, scores in (*members, ("together", fused))}
    return DemoResult(report, folders, out / "ensemble.json", tags, truth, measured, time.monotonic() - started)


def _tag_unseen(manifest: Path, runs: Mapping[str, Path], ensemble: Ensemble) -> tuple[Tags, list[str]]:
    """Tag the test clip with the most labels by every model and fuse what they say; return also the truth."""
    table = Manifest.read(manifest)
    tested = [row for row, split in enumerate(table.splits or ()) if split == "test"]
    row = max(tested, key=lambda each: len(table.labels[each]))
    video, names = table.video_path(row), list(table.label_names)
    said = {name: _said(run, video) for name, run in runs.items()}
    first = next(tags for tags in said.values() if tags is not None)
    members = [(name, _as_scores(tags, names)) for name, tags in said.items()]
    values = ensemble.apply(members, by_place=True).values[0]
    labels = [names[label] for label in np.argsort(-values, kind="stable")]
    by_label = dict(zip(names, values.tolist(), strict=True))
    thresholds = dict(zip(first.labels, first.thresholds, strict=True))
    tags = replace(
        first,
        labels=labels,
        scores=[by_label[label] for label in labels],
        thresholds=[thresholds[label] for label in labels],
        modalities=[name for name, each in said.items() if each is not None],
        missing=[name for name, each in said.items() if each is None],
    )
    return tags, [names[label] for label in table.labels[row]]


def _said(run: Path, video: Path) -> Tags | None:
    """Return the tags of one model, or None where the clip has nothing that it takes: no sound track, for example."""
    try:
        return Tagger.from_pretrained(run)(video)
    except MediaError as error:
        if error.reason != "unsupported":
            raise
        return None


def _as_scores(tags: Tags | None, names: list[str]) -> Scores:
    scores = {} if tags is None else dict(zip(tags.labels, tags.scores, strict=True))
    return Scores(
        video_ids=["clip"],
        values=np.array([[scores.get(name, 0.5) for name in names]], dtype=np.float32),
        label_names=names,
        kind="probability",
        covered=np.array([tags is not None]),
    )
