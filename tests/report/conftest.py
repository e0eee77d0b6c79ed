"""A small run folder with everything that a report shows, some of it hostile."""

import json
from pathlib import Path

import numpy as np
import pytest

from reeltag.store.scores import Scores

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def scores() -> Scores:
    """30 videos and 5 labels; label 4 has no positive, videos 0 and 1 carry no label."""
    generator = np.random.default_rng(0)
    targets = (generator.random((30, 5)) < 0.4).astype(np.uint8)
    targets[:, 4], targets[:2], targets[2:, 0] = 0, 0, 1
    targets[2:15, 0] = 0
    targets[2:, 1] |= targets[2:].sum(axis=1) == 0
    values = (3 * targets - 1.5 + generator.standard_normal((30, 5))).astype(np.float32)
    videos = [f"clips/{i:02}.mp4" for i in range(30)]
    videos[7] = f"clips/{HOSTILE}.mp4"
    return Scores(
        videos, values, ["run", "jump", HOSTILE, "swim & dive", "never"], "logit", targets=targets, split="val"
    )


@pytest.fixture
def run_folder(tmp_path: Path, scores: Scores) -> Path:
    path = tmp_path / "runs" / "demo" / "one"
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(
        "source: {paper: 'see https://example.org </pre><b>', reported: {map_samples: 62.49, map_macro: null}}\n"
        "model: {name: tsm_resnet18}\n"
    )
    lines = [
        {"step": s, "epoch": s / 50, "loss": 0.7 - s / 1000, "lr": 0.01, "clips_per_s": 40 + s % 3, "wait_share": 0.25}
        for s in range(10, 200, 10)
    ]
    lines += [{"step": 50 * e, "epoch": e, "val": {"map_macro": 0.5 + 0.1 * e, "num_videos": 30}} for e in (1, 2, 3)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bad = {"row": 3, "path": f"clips/{HOSTILE}", "reason": "truncated", "detail": "ends after 12 of 36 frames"}
    (path / "bad_files.jsonl").write_text(json.dumps(bad) + "\n")
    (path / "results.json").write_text(json.dumps({"val": {"values": {"map_macro@clip": 0.4321, "gap": 0.0}}}))
    scores.write(path / "scores" / "val.parquet")
    return path
