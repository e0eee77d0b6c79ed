"""Writing the report: one HTML file that needs nothing else, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from scipy.special import expit

from reeltag.metrics.evaluate import Results, evaluate_scores
from reeltag.report.charts import Series, column_chart, line_chart
from reeltag.report.clips import ClipCard, FramesOf, best_and_worst
from reeltag.report.reliability import reliability_chart
from reeltag.report.summary import RunSummary
from reeltag.store.atomic import write_atomic
from reeltag.store.scores import Scores

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class RunView:
    """What the template shows of one run."""

    run: RunSummary
    results: Results | None
    tiles: list[tuple[str, str, str]]
    charts: list[tuple[str, Markup]]
    best: list[ClipCard]
    worst: list[ClipCard]
    data: dict[str, Any]


def write_report(
    out: Path,
    *,
    runs: Sequence[RunSummary],
    frames_of: FramesOf | None = None,
    num_clips: int = 8,
    title: str = "reeltag report",
) -> Path:
    """Write one HTML page about `runs` and return its path.

    Args:
        out: the file; its folder is made when missing.
        runs: in the order of the page; from `read_run`, or built in memory (an ensemble has scores alone).
        frames_of: video id -> uint8 (T, H, W, 3) frames, or None for a video without picture; None shows no pictures.
        num_clips: how many of the best and of the worst clips of each run to show.
        title: heading of the page.

    Raises:
        ValueError: `runs` is empty.
    """
    if not runs:
        raise ValueError("a report needs at least one run or score file")
    views = [_view(run, frames_of, num_clips) for run in runs]
    environment = Environment(
        loader=PackageLoader("reeltag", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["count"] = lambda value: f"{value:,}"
    page = environment.get_template("page.html").render(
        title=title,
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        runs=views,
        table=_metric_table(runs),
        notes=_notes(views),
    )
    write_atomic(out, page.encode())
    return out


def number(value: float | None, digits: int = 3) -> str:
    """Return a value to `digits` decimals, a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _evaluate(scores: Scores) -> Results:
    """Return the results of a split with truth; thresholds of logits are given as probabilities."""
    assert scores.targets is not None
    results = evaluate_scores(scores.values, scores.targets, scores.ignore, label_names=scores.label_names)
    if scores.kind == "probability":
        return results
    table = [
        row if row.best_threshold is None else replace(row, best_threshold=float(expit(row.best_threshold)))
        for row in results.per_label
    ]
    return replace(results, per_label=table)


def _metric_table(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Return the first table: columns (run, remark, metric -> value), one a split with truth and one a source.

    Values are computed from the score files; results.json adds what they cannot give, such as values of single clips.
    """
    columns: list[tuple[str, str, dict[str, str]]] = []
    for run in runs:
        for split, scores in run.scores.items():
            if scores.targets is not None:
                stored = (run.results.get(split) or {}).get("values") or {}
                values = {**{k: v for k, v in stored.items() if isinstance(v, float)}, **_evaluate(scores).values}
                shown = {name: number(value, 4) for name, value in values.items()}
                columns.append((run.name, f"{split}, {len(scores.video_ids):,} videos", shown))
        if run.reported:
            columns.append((run.name, "reported by its source", {k: f"{v:g}" for k, v in run.reported.items()}))
    names = sorted({metric for _, _, values in columns for metric in values})
    reported = any(run.reported for run in runs)
    return {"columns": columns, "names": names, "reported": reported}


def _view(run: RunSummary, frames_of: FramesOf | None, num_clips: int) -> RunView:
    scores = run.scores[run.split] if run.split else None
    results = _evaluate(scores) if scores else None
    best, worst = best_and_worst(scores, frames_of, num_clips=num_clips) if scores else ([], [])
    charts = _curves(run)
    if scores and (chart := reliability_chart(scores, run.calibration)):
        charts.append(("Reliability: how often what is said is true", chart))
    return RunView(run, results, _tiles(run, results), charts, best, worst, _data(scores))


def _tiles(run: RunSummary, results: Results | None) -> list[tuple[str, str, str]]:
    """Return (name, value, remark) of the figures at the head of a run."""
    tiles = []
    if results:
        for metric, remark in (
            ("map_macro", "mean over labels"),
            ("map_samples", "mean over videos"),
            ("gap_at_20", "one list of all videos"),
            ("hit_at_1", "best label is right"),
        ):
            tiles.append((metric, number(results.values[metric]), remark))
    lines = run.train_lines
    waits = [line["wait_share"] for line in lines if line.get("wait_share") is not None]
    speeds = [line["clips_per_s"] for line in lines if line.get("clips_per_s") is not None]
    if lines:
        steps = f"{lines[-1].get('step', len(lines)):,} steps"
        tiles.append(("last loss", number(lines[-1]["loss"], 4), steps))
    if speeds:
        tiles.append(("speed", f"{float(np.median(speeds)):.1f}", "clips/s, median"))
    if waits:
        tiles.append(("waiting for data", f"{100 * float(np.mean(waits)):.0f} %", "of the training time"))
    return tiles


def _curves(run: RunSummary) -> list[tuple[str, Markup]]:
    def series(lines: Sequence[dict[str, Any]], key: str) -> list[Series]:
        points = [(float(line.get("step", i)), line.get(key)) for i, line in enumerate(lines)]
        return [Series(key, [(x, float(y)) for x, y in points if isinstance(y, int | float)])]

    x_label = "epoch" if all("epoch" in line for line in run.val_lines) else "validation"
    metrics = sorted({name for line in run.val_lines for name, v in line["val"].items() if isinstance(v, float)})
    wanted = [n for n in ("map_macro", "map_samples", "map_micro", "gap_at_20", "hit_at_1", "loss") if n in metrics]
    validation = [
        Series(
            name,
            [
                (float(line["epoch"] if x_label == "epoch" else i), line["val"][name])
                for i, line in enumerate(run.val_lines)
                if isinstance(line["val"].get(name), float)
            ],
        )
        for name in (wanted or metrics)[:6]
    ]
    charts = [
        ("Training loss", line_chart(series(run.train_lines, "loss"), x_label="step", y_label="loss")),
        ("Validation", line_chart(validation, x_label=x_label, y_label="value")),
        ("Learning rate", line_chart(series(run.train_lines, "lr"), x_label="step", y_label="learning rate")),
        ("Time waiting for data", line_chart(series(run.train_lines, "wait_share"), x_label="step", y_label="share")),
    ]
    return [(title, chart) for title, chart in charts if chart]


def _data(scores: Scores | None) -> dict[str, Any]:
    """Return what the truth of a split looks like: counts, charts, and the labels that come together most."""
    if scores is None or scores.targets is None or not scores.video_ids:
        return {}
    present = scores.targets > 0
    if scores.ignore is not None:
        present = present & ~scores.ignore
    per_video, per_label = present.sum(axis=1), present.sum(axis=0)
    order = np.argsort(-per_label, kind="stable")
    together = np.triu(present.T.astype(np.float32) @ present.astype(np.float32), k=1)
    top = np.argsort(-together, axis=None, kind="stable")[:8]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(top, together.shape), strict=True)]
    names = scores.label_names
    return {
        "videos": len(per_video),
        "labels": len(names),
        "mean_labels": float(per_video.mean()),
        "unlabelled": int((per_video == 0).sum()),
        "rarest": int(per_label.min()),
        "commonest": int(per_label.max()),
        "ignored": 0.0 if scores.ignore is None else float(scores.ignore.mean()),
        "frequency": column_chart(
            [float(per_label[i]) for i in order],
            names=[names[i] for i in order],
            x_label="labels, by falling frequency",
            y_label="videos",
        ),
        "labels_per_video": column_chart(
            np.bincount(per_video).astype(float).tolist(),
            names=[str(i) for i in range(int(per_video.max()) + 1)],
            x_label="labels of a video",
            y_label="videos",
        ),
        "pairs": [(names[i], names[j], int(together[i, j])) for i, j in pairs if together[i, j] > 0],
    }


def _notes(views: Sequence[RunView]) -> list[str]:
    """Return sentences on what the means leave out and on what limits the numbers."""
    notes = []
    for view in views:
        if view.results is None:
            notes.append(f"{view.run.name}: no score file with truth, so nothing is measured.")
            continue
        notes += [f"{view.run.name}, {view.run.split}: {note}" for note in _left_out(view.results)]
    return notes


def _left_out(results: Results) -> list[str]:
    labels, videos = results.num_labels, results.num_videos
    said = [
        (
            results.labels_without_positives,
            f"of {labels:,} labels without a positive video: left out of means over labels (scikit-learn counts 0).",
        ),
        (
            results.labels_without_negatives,
            f"of {labels:,} labels on every video: their average precision is 1 whatever the scores.",
        ),
        (results.videos_without_labels, f"of {videos:,} videos without a label: left out of means over videos."),
        (
            sum(0 < row.positives < 10 for row in results.per_label),
            f"of {labels:,} labels with fewer than 10 positive videos: one video moves their values a lot.",
        ),
    ]
    return [f"{count:,} {what}" for count, what in said if count]
