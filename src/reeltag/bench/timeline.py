"""`reeltag bench timeline`: tags over time on long videos of generated clips, whose labels have known intervals."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.data.minimoments import GROUPS, LABELS, ClipPlan, plan_clips, render_clip
from reeltag.data.minimoments.picture import FPS, NUM_FRAMES
from reeltag.data.minimoments.sound import RATE_HZ
from reeltag.errors import RecipeError
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.predict import Tagger
from reeltag.inference.segments import SegmentRule
from reeltag.inference.timeline import Timeline, timeline
from reeltag.media.encode import write_video
from reeltag.metrics import METRICS
from reeltag.store.atomic import write_json

FIRST_SEED = 2000  # of the clips: the demo's own sets are made of small seeds
_CLIP_S = NUM_FRAMES / FPS
_GRID_S = 0.25  # the truth is asked this often


@dataclass(frozen=True)
class Composed:
    """A long video and its truth.

    Attributes:
        path: the file.
        truth: (P, L) uint8, which labels there are at (p + 1/2) / 4 seconds.
    """

    path: Path
    truth: NDArray[np.uint8]


def compose_video(folder: Path, clips: int, seed: int) -> Composed:
    """Write a video of unseen MiniMoments clips of 3 s, one after the other; about 40 % of it has no sound.

    A part of the first clip, drawn by the seed, is cut off, so that clips begin where no window needs to.
    """
    plans = plan_clips(0, 0, clips, seed=seed)
    frames, sound = [], []
    for plan in plans:
        picture, heard = render_clip(plan, seed)
        frames.append(picture)
        sound.append(np.zeros(round(_CLIP_S * RATE_HZ), np.float32) if heard is None else heard.astype(np.float32))
    skipped = int(np.random.default_rng(seed).integers(1, NUM_FRAMES))
    path = folder / f"composed_{seed}.mp4"
    shown, heard_all = np.concatenate(frames)[skipped:], np.concatenate(sound)[skipped * RATE_HZ // FPS :]
    keyframes = range(0, len(shown), 2 * FPS)
    write_video(path, shown, FPS, audio=heard_all, rate_hz=RATE_HZ, keyframes=keyframes)
    points = (np.arange(int(len(shown) / FPS / _GRID_S)) + 0.5) * _GRID_S
    return Composed(path, _truth(plans)[((points + skipped / FPS) / _CLIP_S).astype(int)])


def _truth(plans: list[ClipPlan]) -> NDArray[np.uint8]:
    return np.array([[label in plan.labels for label in LABELS] for plan in plans], dtype=np.uint8)


def over_time(found: Timeline, num_points: int) -> NDArray[np.float32]:
    """Return (P, L): at each point of the truth the mean score of the windows that cover it; NaN where none can."""
    points = (np.arange(num_points) + 0.5) * _GRID_S
    cells_s, means = found.windows.moments(found.scores)
    cells = np.searchsorted(cells_s[:, 1], points, side="right")
    return means[np.minimum(cells, len(means) - 1)].astype(np.float32)


def overlap(decided: NDArray[np.bool_], truth: NDArray[np.uint8]) -> float:
    """Return the temporal IoU, a mean over the labels that are there at all: time in both over time in either."""
    wanted = truth.astype(bool)
    there = wanted.any(0)
    both, either = (decided & wanted).sum(0), (decided | wanted).sum(0)
    return float((both[there] / either[there]).mean())


def decided_by(found: Timeline, num_points: int) -> NDArray[np.bool_]:
    """Return (P, L): whether a segment of the label covers the point."""
    points = (np.arange(num_points) + 0.5) * _GRID_S
    decided = np.zeros((num_points, len(found.label_names)), dtype=bool)
    for segment in found.segments:
        inside = (points >= segment.start_s) & (points < segment.end_s)
        decided[inside, found.label_names.index(segment.label)] = True
    return decided


def measure(
    tagger: Tagger | EnsembleTagger, composed: Composed, hop_s: float | None, rule: SegmentRule
) -> dict[str, float]:
    """Return framewise macro AP and temporal IoU of a timeline, and of the whole-video score at every moment."""
    started = time.monotonic()
    found = timeline(tagger, composed.path, hop_s=hop_s, rule=rule)
    seconds = time.monotonic() - started
    truth = composed.truth
    scores = np.nan_to_num(over_time(found, len(truth)), nan=0.0)
    whole_of = dict(zip(found.tags.labels, found.tags.scores, strict=True))
    whole = np.array([whole_of[name] for name in found.label_names], dtype=np.float32)
    flat = np.broadcast_to(whole, scores.shape)
    present = np.isin(found.label_names, found.tags.present)
    decided = decided_by(found, len(truth))
    result = {"share_of_real_time": seconds / (len(truth) * _GRID_S)}
    for name, labels in {"all": LABELS, **GROUPS}.items():
        own = [LABELS.index(label) for label in labels]
        result[f"{name}.map_macro"] = METRICS["map_macro"](scores[:, own], truth[:, own])
        result[f"{name}.iou"] = overlap(decided[:, own], truth[:, own])
        result[f"{name}.whole_map_macro"] = METRICS["map_macro"](flat[:, own], truth[:, own])
        result[f"{name}.whole_iou"] = overlap(np.broadcast_to(present, truth.shape)[:, own], truth[:, own])
    return result


@BENCHES.register("timeline")
def run_timeline(
    run: str = "demo/runs/rgb/seed0",
    out: str = "runs/timeline.json",
    clips: int = 40,
    seeds: int = 3,
    hop_s: float | None = None,
    off: float = SegmentRule.off,
    device: str = "cpu",
) -> dict[str, Any]:
    """Compare a timeline with the whole-video score at every moment, on long videos with known intervals.

    Args:
        run: a run folder, bundle or ensemble file, of MiniMoments.
        out: the JSON file.
        clips: of 3 s a video.
        seeds: videos.
        hop_s: from one window to the next; half a window by default.
        off: see `SegmentRule`.
        device: where the model runs.
    """
    console, tagger = Console(stderr=True, highlight=False), _tagger(run, device)
    if tagger.label_names != LABELS:
        raise RecipeError(f"{run} knows other labels than MiniMoments; train it on `reeltag data demo`")
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(tagger, compose_video(Path(folder), clips, seed), hop_s, SegmentRule(off=off)))
        console.print(f"seed {seed}: {rows[-1]['all.map_macro']:.3f} map_macro, {rows[-1]['all.iou']:.3f} temporal IoU")
    result: dict[str, Any] = {"run": run, "video_s": clips * _CLIP_S, "device": device, "off": off, "hop_s": hop_s}
    for key in rows[0]:
        result[key] = round(float(np.mean([row[key] for row in rows])), 4)
        result[f"{key}_by_seed"] = [round(row[key], 4) for row in rows]
    write_json(Path(out), result)
    console.print_json(data=result)
    return result


@BENCHES.register("timeline_memory")
def timeline_memory(
    run: str = "demo/runs/rgb/seed0",
    video: str | None = None,
    out: str = "runs/timeline_memory.json",
    clips: int = 600,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure the peak memory and the time of one timeline, beside what the process held before it.

    Args:
        run: a run folder, bundle or ensemble file.
        video: a file; None makes one of MiniMoments clips.
        out: the JSON file.
        clips: of 3 s, when a video is made; another process makes it, since it holds all frames.
        device: where the model runs.
    """
    tagger = _tagger(run, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(video) if video is not None else _made_elsewhere(Path(folder), clips)
        before, started = _peak_mb(), time.monotonic()
        found = timeline(tagger, path)
        seconds = time.monotonic() - started
    duration_s = found.tags.duration_s
    result = {
        "run": run,
        "video_s": round(duration_s, 1),
        "windows": len(found.scores),
        "peak_mb_before": before,
        "peak_mb": _peak_mb(),
        "share_of_real_time": round(seconds / duration_s, 4),
    }
    write_json(Path(out), result)
    Console(stderr=True, highlight=False).print_json(data=result)
    return result


def _made_elsewhere(folder: Path, clips: int) -> Path:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(compose_video, folder, clips, FIRST_SEED).result().path


def _tagger(run: str, device: str) -> Tagger | EnsembleTagger:
    if run.endswith(".json"):
        return EnsembleTagger.from_file(run, device=device)
    return Tagger.from_pretrained(run, device=device)


def _peak_mb() -> int:
    """Return the largest memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))
