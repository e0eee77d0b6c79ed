"""`reeltag bench audioset`: the systems of the YouTube-8M tables on 975 real clips of AudioSet, each label set unseen.

Data: three shards of AudioSet's VGGish features (Google, CC BY 4.0), frame level at 1 Hz, 128 values of 8 bits, from
github.com/cosmir/openmic-2018, folder tests/data/tfrecords. Split: a clip belongs to fold crc32(video id) mod 5.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from reeltag.bench import BENCHES
from reeltag.build import create_model
from reeltag.data.youtube8m import AUDIOSET_STREAMS
from reeltag.data.youtube8m_loader import YouTube8M
from reeltag.losses import LOSSES
from reeltag.metrics import METRICS
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import training_loss
from reeltag.store.atomic import write_json

NUM_LABELS, FOLDS, MIN_CLIPS = 527, 5, 10
DIM = sum(AUDIOSET_STREAMS.values())
_HIDDEN: dict[str, Any] = {"fc": 256}
# Rows of the tables: model and sizes, small because 780 clips are. Sizes are the same with gates and without.
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline 1 (mean, logistic)": ("frames_mean", {}),
    "baseline 2 (mean, experts)": ("frames_moe", {}),
    "LSTM": ("frames_lstm", {"hidden": 128}),
    "GRU": ("frames_gru", {"hidden": 128}),
    "Soft-DBoW": ("frames_dbow", {"num_clusters": 256, **_HIDDEN}),
    "NetFV": ("frames_netfv", {"num_clusters": 8, **_HIDDEN}),
    "NetRVLAD": ("frames_netrvlad", {"num_clusters": 16, **_HIDDEN}),
    "NetVLAD": ("frames_netvlad", {"num_clusters": 16, **_HIDDEN}),
    "NeXtVLAD": ("frames_nextvlad", {"num_clusters": 16, "groups": 4, **_HIDDEN}),
}


@dataclass(frozen=True)
class Budget:
    """What every system trains with: chosen once for all of them, on fold 0 of seed 0."""

    epochs: int = 28
    lr: float = 2e-3
    weight_decay: float = 1e-4
    dropout: float = 0.5
    batch_size: int = 64
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Clips:
    """All clips in memory: features (N, T, D), mask (N, T), targets (N, L), and the fold of each."""

    features: Tensor
    mask: Tensor
    targets: Tensor
    folds: NDArray[np.int64]


def fold_of(video_id: str) -> int:
    """Return the fold of a clip, the same on every machine and for ever."""
    return zlib.crc32(video_id.encode()) % FOLDS


def read_clips(data: str) -> Clips:
    """Read the shards of a folder into memory."""
    source = YouTube8M(data, num_labels=NUM_LABELS, streams=AUDIOSET_STREAMS)
    batch = source.collate(list(source))
    if batch["damages"]:
        raise AssertionError(f"{len(batch['damages'])} records cannot be read, the first: {batch['damages'][0]}")
    folds = np.array([fold_of(name) for name in batch["video_ids"]])
    return Clips(batch["features"], batch["mask"], batch["targets"], folds)


def build_system(name: str, gated: bool, budget: Budget) -> VideoModel:
    """Build a row of the table, with gates or without.

    Gates: context gating before the classifier, and over the scores where experts give them. NeXtVLAD's own gate is
    squeeze and excitation.
    """
    model, sizes = SYSTEMS[name]
    options = {**sizes, "dropout": budget.dropout, "gating": "cg" if gated else "none"}
    if model == "frames_nextvlad":
        options |= {"gating": "se" if gated else "none", "pool_dropout": 0.0}
    elif model != "frames_mean":
        options["score_gating"] = "scores" if gated else "none"
    return create_model(model, num_labels=NUM_LABELS, feature_sizes=(DIM,), **options)


def train_and_score(clips: Clips, name: str, gated: bool, fold: int, seed: int, budget: Budget) -> Tensor:
    """Train on the other folds and return the probabilities (n, L) of the clips of one."""
    torch.manual_seed(seed)
    held_out = torch.from_numpy(clips.folds == fold)
    features, mask, targets = (part[~held_out] for part in (clips.features, clips.mask, clips.targets))
    model = build_system(name, gated, budget)
    counts = targets.sum(0)
    model.set_bias(((counts + 0.5) / (len(targets) - counts + 0.5)).log())
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.lr, weight_decay=budget.weight_decay, fused=True)
    steps = budget.epochs * (len(targets) // budget.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1000 * seed + fold)
    for _ in range(budget.epochs):
        order = torch.randperm(len(targets), generator=generator)
        for rows in order.split(budget.batch_size):
            if len(rows) < budget.batch_size:
                continue  # a last batch of a few clips would spoil the batch norms
            logits = model(features[rows], mask[rows])
            loss = training_loss(model, logits, targets[rows], LOSSES["bce"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), budget.clip_norm)
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        return model(clips.features[held_out], clips.mask[held_out]).sigmoid()


def measures(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """Return GAP@20, Hit@1, and mean average precision over the labels with `MIN_CLIPS` clips or more."""
    often = targets.sum(0) >= MIN_CLIPS
    return {
        "gap_at_20": METRICS["gap_at_20"](scores, targets),
        "map_macro": METRICS["map_macro"](scores[:, often], targets[:, often]),
        "hit_at_1": METRICS["hit_at_1"](scores, targets),
    }


_CLIPS: dict[str, Clips] = {}  # read once in each process


def _job(data: str, name: str, gated: bool, fold: int, seed: int, budget: Budget) -> tuple[NDArray[np.float32], float]:
    torch.set_num_threads(1)
    clips = _CLIPS.setdefault(data, read_clips(data)) if data not in _CLIPS else _CLIPS[data]
    started = time.process_time()
    scores = train_and_score(clips, name, gated, fold, seed, budget)
    return scores.numpy(), time.process_time() - started


def run_systems(
    data: str, budget: Budget, *, seeds: int, folds: range = range(FOLDS), jobs: int = 1, console: Console | None = None
) -> list[dict[str, Any]]:
    """Train every system, with gates and without, and return the measures of each on its held-out clips.

    Scores of the folds are put together, so that every clip is scored once, by a model that did not see it.
    """
    clips = read_clips(data)
    rows = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        asked = {
            (name, gated, seed, fold): pool.submit(_job, data, name, gated, fold, seed, budget)
            for name in SYSTEMS
            for gated in (False, True)
            for seed in range(seeds)
            for fold in folds
        }
        for name in SYSTEMS:
            for gated in (False, True):
                found, spent = [], 0.0
                for seed in range(seeds):
                    parts = [asked[name, gated, seed, fold].result() for fold in folds]
                    scores = torch.from_numpy(np.concatenate([scores for scores, _ in parts]))
                    order = np.concatenate([np.flatnonzero(clips.folds == fold) for fold in folds])
                    found.append(measures(scores, clips.targets[order]))
                    spent += sum(seconds for _, seconds in parts)
                rows.append(_row(name, gated, found, spent / (seeds * len(folds)), budget))
                if console:
                    console.print(f"{name}, {'gated' if gated else 'plain'}: {rows[-1]['gap_at_20']}", markup=False)
    return rows


def _row(name: str, gated: bool, found: list[dict[str, float]], seconds: float, budget: Budget) -> dict[str, Any]:
    model = build_system(name, gated, budget)
    row: dict[str, Any] = {
        "system": name,
        "gated": gated,
        "model": SYSTEMS[name][0],
        "sizes": SYSTEMS[name][1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_seconds_a_training": round(seconds, 2),
    }
    for measure in found[0]:
        values = [each[measure] for each in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        row[measure] = {"mean": round(statistics.mean(values), 4), "deviation": round(spread, 4),
                        "seeds": [round(value, 4) for value in values]}  # fmt: skip
    return row


@BENCHES.register("audioset")
def run(
    data: str = "audioset_vggish",
    out: str = "results/audioset_vggish.json",
    seeds: int = 3,
    jobs: int | None = None,
    epochs: int = Budget.epochs,
    lr: float = Budget.lr,
    dropout: float = Budget.dropout,
    tune: bool = False,
) -> dict[str, Any]:
    """Train every row on five folds, print and write GAP@20, mAP over frequent labels and Hit@1.

    Args:
        data: the folder with the three shards.
        out: the JSON file.
        seeds: of every row.
        jobs: trainings at a time, one thread each; None = as many as cores.
        epochs: of every system.
        lr: of every system.
        dropout: of every system.
        tune: train on fold 0 of seed 0 alone, as the budget was chosen.
    """
    console, started = Console(stderr=True, highlight=False), time.monotonic()
    jobs = jobs or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    budget = Budget(epochs=epochs, lr=lr, dropout=dropout)
    folds = range(1) if tune else range(FOLDS)
    rows = run_systems(data, budget, seeds=1 if tune else seeds, folds=folds, jobs=jobs, console=console)
    clips = read_clips(data)
    often = clips.targets.sum(0) >= MIN_CLIPS
    result: dict[str, Any] = {
        "data": {
            "clips": len(clips.folds),
            "labels": NUM_LABELS,
            "labels_used": int((clips.targets.sum(0) > 0).sum()),
            f"labels_with_{MIN_CLIPS}_clips": int(often.sum()),
            "clips_by_fold": np.bincount(clips.folds, minlength=FOLDS).tolist(),
            "fold": f"crc32(video id) mod {FOLDS}",
        },
        "budget": vars(budget),
        "tuned_on": "fold 0 of seed 0, one budget for all systems",
        "rows": rows,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "jobs": jobs,
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    mean_gap = statistics.mean(row["gap_at_20"]["mean"] for row in rows)
    console.print(f"mean GAP@20 over the rows: {mean_gap:.4f}", markup=False)
    if not tune:
        write_json(Path(out), result)
    console.print_json(data=result)
    return result
