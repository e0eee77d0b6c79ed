"""The whole of reeltag in one call: make clips, train, evaluate, report, and tag a clip that training never saw."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from reeltag.bench.minimoments import measure
from reeltag.bench.training import packed, train_and_evaluate
from reeltag.data.manifest import Manifest
from reeltag.data.minimoments import write_minimoments
from reeltag.errors import StoreError
from reeltag.inference.predict import Tagger
from reeltag.report.from_runs import report_runs
from reeltag.schema import Tags


@dataclass(frozen=True)
class Size:
    """How large a demonstration is."""

    train: int
    test: int
    recipe: str
    tail: float


QUICK = Size(train=160, test=60, recipe="demo/quick", tail=1.0)
FULL = Size(train=2000, test=400, recipe="demo/tsm_mini", tail=20.0)


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration made: its report, the run, the tags of one unseen clip and what was measured."""

    report: Path
    run: Path
    tags: Tags
    truth: list[str]
    measured: dict[str, Any]


def run_demo(out: Path, *, quick: bool, console: Console, seed: int = 0) -> DemoResult:
    """Make MiniMoments, train, evaluate on unseen clips, write the report and tag one of them.

    Args:
        out: a new folder.
        quick: within a minute on two cores: a few clips and frames alone; else all of MiniMoments and TSM.
        console: where progress is shown.
        seed: of the clips.

    Raises:
        StoreError: `out` already holds a demonstration.
    """
    if (out / "runs").exists():
        raise StoreError(f"{out} already holds a demonstration; give another --out, or remove it")
    size, started = QUICK if quick else FULL, time.monotonic()
    console.print(f"rendering {size.train + size.test} clips with known labels into {out / 'data'}")
    manifest = write_minimoments(out / "data", size.train, 0, size.test, seed=seed, tail=size.tail)
    console.print("packing them, so that training reads pixels and not files")
    shards, _ = packed(manifest, out / "packed", store="raw", short_side_px=72)
    run = train_and_evaluate(size.recipe, shards, out / "runs", seed=0, split="test", console=console)
    report = report_runs([run.folder], out / "report.html", split="test", manifest=manifest)
    tagger = Tagger.from_pretrained(run.folder)
    table = Manifest.read(manifest)
    row = next(row for row, split in enumerate(table.splits or ()) if split == "test" and table.labels[row])
    tags = tagger(table.video_path(row))
    truth = [table.label_names[label] for label in table.labels[row]]
    measured = {**measure(run.scores), "seconds": round(time.monotonic() - started, 1)}
    return DemoResult(report, run.folder, tags, truth, measured)
