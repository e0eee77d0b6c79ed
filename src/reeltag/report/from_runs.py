"""A report from run folders: reads what evaluation wrote and fetches pictures of the clips that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reeltag.data.footage import FileFootage, Footage, open_footage
from reeltag.errors import MediaError, ReeltagError, StoreError
from reeltag.report.figure import write_figure
from reeltag.report.page import write_report
from reeltag.report.summary import read_run
from reeltag.store.run import RunFolder

PICTURES = 4


def report_runs(runs: Sequence[Path], out: Path, *, split: str | None = None, manifest: Path | None = None) -> Path:
    """Write one page about run folders (or score files) and return its path.

    Args:
        runs: in the order of the page.
        out: the HTML file.
        split: show this split alone, when a run was evaluated on several.
        manifest: where the pictures come from; by default the manifest of the first run that has one.
    """
    summaries = [read_run(Path(path)) for path in runs]
    summaries = [
        replace(summary, scores={split: summary.scores[split]}) if split and split in summary.scores else summary
        for summary in summaries
    ]
    return write_report(out, runs=summaries, frames_of=_pictures(runs, manifest))


def figure_of_run(run: Path, out: Path, *, split: str | None = None, manifest: Path | None = None) -> Path:
    """Write `report.figure.write_figure` of a run folder (or a score file) and return its path.

    Raises:
        StoreError: the run has no scores with truth, or none of this split.
    """
    summary = read_run(Path(run))
    chosen = split or summary.split
    if chosen not in summary.scores:
        raise StoreError(
            f"{run} has no scores with truth{f' of {split!r}' if split else ''}; `reeltag evaluate` writes them"
        )
    return write_figure(out, summary.scores[chosen], _pictures([run], manifest))


class _Pictures:
    """A few frames of a video by its id; None where it cannot be read."""

    def __init__(self, footage: Footage) -> None:
        # Features have no pictures; their manifest still names the videos.
        self.footage = FileFootage(footage.manifest) if footage.input_kind == "features" else footage
        self.rows = {video_id: row for row, video_id in enumerate(footage.manifest.video_ids)}

    def __call__(self, video_id: str) -> NDArray[np.uint8] | None:
        row = self.rows.get(video_id)
        if row is None:
            return None
        try:
            frames = self.footage.clip(row, lambda n, fps: [int(n * (k + 0.5) / PICTURES) for k in range(PICTURES)])
        except MediaError:
            return None
        pictures: NDArray[np.uint8] = frames.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)
        return pictures


def _pictures(runs: Sequence[Path], manifest: Path | None) -> _Pictures | None:
    source = manifest
    for path in runs:
        if source is None and (Path(path) / "run.json").is_file():
            source = Path(RunFolder.open(Path(path)).facts["manifest"])
    if source is None:
        return None
    try:
        return _Pictures(open_footage(source))
    except ReeltagError:
        return None  # the manifest has moved; the page goes without pictures
