"""`reeltag bench explain`: how faithful explanations are, on generated clips whose causes have known places."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.data.minimoments import ClipPlan, compose_clip, plan_clips, write_clip
from reeltag.data.minimoments.picture import FPS, NUM_FRAMES, SIDE_PX
from reeltag.errors import RecipeError
from reeltag.inference.hiding import Subject
from reeltag.inference.predict import Tagger
from reeltag.inference.saliency import METHODS, has_map
from reeltag.media import open_media
from reeltag.store.atomic import write_json

FIRST_SEED = 1000  # of the clips: the demo's own sets are made of small seeds
STEPS = 10  # of deletion and insertion
TOLERANCE_PX = 4.0  # about half a cell of the grid
_GROUPS = ("appearance", "motion", "order")
_BASELINES = ("random", "centre")


@dataclass(frozen=True)
class Faith:
    """What one map of one label of one clip is worth.

    Attributes:
        method: which made it, or the name of a baseline.
        group: of the label.
        deletion: mean score while the best places are hidden first; the lower the better.
        insertion: mean score while the best places are shown first; the higher the better.
        hit: the best place of all lies on the thing that the label is about.
    """

    method: str
    group: str
    deletion: float
    insertion: float
    hit: bool


def thing_at(plan: ClipPlan, seed: int, label: str, frame_s: float) -> tuple[float, float, float]:
    """Return x, y and radius in pixels of what a label is about, at a time of the clip."""
    picture = compose_clip(plan, seed)
    frame = min(NUM_FRAMES - 1, max(0, int(frame_s * FPS)))
    frame = NUM_FRAMES - 1 - frame if plan.reverse else frame
    group, _, name = label.partition("_")
    if group == "order":
        return picture.card_at
    if group == "motion" or picture.mover == name:
        x, y, log_radius, _ = picture.track[frame].tolist()
        return x, y, float(np.exp(log_radius))
    return picture.still_at[:3]


def deletion_and_insertion(subject: Subject, heat: NDArray[np.float32], label: int) -> tuple[float, float]:
    """Return the areas under the score while cells are hidden from the best on, and while they are shown so.

    Paper: Petsiuk, Das, Saenko. RISE. arXiv:1806.07421, section 4.2. Departures: hidden is the clip's mean colour in
    both, where there insertion starts from a blurred picture; cells of space and time are ranked together.
    """
    order = np.argsort(-heat.reshape(-1), kind="stable")
    keep = []
    for step in range(STEPS + 1):
        hidden = torch.zeros(heat.size)
        hidden[torch.from_numpy(order[: round(heat.size * step / STEPS)].copy())] = 1
        keep += [1 - hidden, hidden]
    scores = subject.scores(torch.stack(keep).unflatten(1, heat.shape))[:, label]
    deletion, insertion = (np.trapezoid(curve) / STEPS for curve in (scores[0::2], scores[1::2]))
    return float(deletion), float(insertion)


def _baseline(name: str, shape: tuple[int, ...], generator: torch.Generator) -> NDArray[np.float32]:
    noise = torch.rand(shape, generator=generator)
    if name == "random":
        return np.asarray(noise.numpy())
    y, x = (torch.linspace(-1, 1, size) for size in shape[1:])
    return np.asarray((noise * 1e-3 - (y[:, None] ** 2 + x**2)).numpy())  # times are told apart at random


def measured(
    tagger: Tagger, plan: ClipPlan, seed: int, path: Path, methods: list[str], spent: dict[str, float]
) -> Iterator[Faith]:
    """Yield what each method's maps are worth, for the labels of a clip that are right and have a place."""
    names = tagger.label_names
    with open_media(path) as media:
        subject = Subject(tagger, media, str(path))
        scores = subject.scores()[0]
        thresholds = tagger.loaded.trained.thresholds
        labels = [names.index(label) for label in plan.labels if label.partition("_")[0] in _GROUPS]
        labels = [label for label in labels if scores[label] >= thresholds[label]]
        if not labels:
            return
        middles = (subject.edges_s[1:] + subject.edges_s[:-1]) / 2
        generator = torch.Generator().manual_seed(seed * 100_003 + plan.index)
        for method in (*methods, *_BASELINES):
            started = time.monotonic()
            if method in _BASELINES:
                maps = np.stack([_baseline(method, (subject.num_parts, *subject.grid), generator) for _ in labels])
            else:
                maps = METHODS[method](subject, labels, generator)
            spent[method] = spent.get(method, 0.0) + time.monotonic() - started
            for label, heat in zip(labels, maps, strict=True):
                part, row, column = np.unravel_index(int(heat.argmax()), heat.shape)
                x, y, radius = thing_at(plan, seed, names[label], float(middles[part]))
                at = [(float(i) + 0.5) / n * SIDE_PX for i, n in ((column, heat.shape[2]), (row, heat.shape[1]))]
                hit = float(np.hypot(at[0] - x, at[1] - y)) <= radius + TOLERANCE_PX
                yield Faith(method, names[label].partition("_")[0], *deletion_and_insertion(subject, heat, label), hit)


@BENCHES.register("explain")
def explain(
    run: str = "demo/runs/rgb/seed0",
    out: str = "runs/explain.json",
    clips: int = 20,
    seeds: int = 3,
    methods: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure maps of places by deletion, insertion and the pointing game, beside random maps and the centre.

    Args:
        run: a run folder or bundle of one model on pictures or flow, trained on MiniMoments.
        out: the JSON file.
        clips: a seed, none of which the model has seen.
        seeds: sets of clips.
        methods: names joined by commas; all that fit the model by default.
        device: where the model runs.
    """
    console = Console(stderr=True, highlight=False)
    tagger = Tagger.from_pretrained(run, device=device)
    found: list[tuple[int, Faith]] = []
    spent: dict[str, float] = {}
    explained = 0
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "videos").mkdir()
            for plan in plan_clips(0, 0, clips, seed=seed):
                write_clip(plan, Path(folder), seed)
                path = Path(folder) / "videos" / f"{plan.video_id}.mp4"
                chosen = methods.split(",") if methods else _fitting(tagger, path)
                own = list(measured(tagger, plan, seed, path, chosen, spent))
                explained += bool(own)
                found += [(seed, faith) for faith in own]
        console.print(f"seed {seed}: {len(found)} maps")
    if not found:
        raise RecipeError(f"{run} finds no label of {clips * seeds} clips; train it on MiniMoments, or raise clips")
    rows = {method: _row(found, method, spent[method] / explained) for method in spent}
    result = {"run": run, "clips": explained, "seeds": seeds, "device": device, "methods": rows}
    write_json(Path(out), result)
    console.print_json(data=result)
    return result


def _fitting(tagger: Tagger, path: Path) -> list[str]:
    with open_media(path) as media:
        subject = Subject(tagger, media, str(path))
        if not subject.grid[0]:
            raise RecipeError("this model looks at no picture, so that its scores rest on no place; give another run")
        return [name for name in METHODS if name != "grad_cam" or has_map(subject)]


def _row(found: list[tuple[int, Faith]], method: str, seconds: float) -> dict[str, Any]:
    own = [(seed, faith) for seed, faith in found if faith.method == method]
    by_seed = sorted({seed for seed, _ in own})

    def mean(of: str, chosen: list[Faith]) -> float:
        return round(float(np.mean([getattr(faith, of) for faith in chosen])), 4) if chosen else float("nan")

    row: dict[str, Any] = {"maps": len(own), "seconds_a_clip": round(seconds, 2)}
    for of in ("deletion", "insertion", "hit"):
        row[of] = mean(of, [faith for _, faith in own])
        row[f"{of}_by_seed"] = [mean(of, [faith for at, faith in own if at == seed]) for seed in by_seed]
    row["hit_by_group"] = {
        group: mean("hit", [faith for _, faith in own if faith.group == group])
        for group in _GROUPS
        if any(faith.group == group for _, faith in own)
    }
    return row
