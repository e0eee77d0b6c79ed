"""What a recipe will cost: parameters, multiply-accumulates, memory and time, from a few real steps."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from reeltag.build import build_loss, build_model, check_input, rows_of
from reeltag.data.footage import Footage
from reeltag.engine.epoch_time import measure_epoch
from reeltag.engine.monitor import format_s
from reeltag.engine.protocol import prepare_model
from reeltag.hardware import resolve_device, resolve_precision
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.training_loss import training_loss
from reeltag.recipe import Recipe

TIMED_STEPS = 3
READ_BATCHES = 8


def predict_cost(
    recipe: Recipe, footage: Footage | None, *, device: str = "auto", workers: int | None = None
) -> dict[str, Any]:
    """Time a few training steps on drawn pixels, then on batches that are read, and return what a whole run will take.

    Args:
        recipe: the recipe.
        footage: what would be trained on; without it 10 labels are assumed and no time is predicted.
        device: where to measure.
        workers: loader processes; None chooses as training does.
    """
    target = resolve_device(device)
    num_labels = len(footage.manifest.label_names) if footage else 10
    model = build_model(recipe, num_labels).to(target)
    prepare_model(model, recipe.train)
    batch = recipe.train.batch_size
    clips = _drawn(recipe, model, footage).to(target)
    bf16 = resolve_precision(recipe.train.precision, device) == "bf16"
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gmacs_per_clip": round(model.flops(clips[:1]) / 2e9, 3),
        "precision": "bf16" if bf16 else "fp32",
        "device": str(target),
    }
    step_s = _time_steps(recipe, model, clips, num_labels, bf16)
    facts["seconds_per_step"] = round(step_s, 4)
    facts["clips_per_s"] = round(batch / step_s, 2)
    facts["peak_memory_mib"] = round(_peak_memory_mib(target))
    if footage is not None:
        facts["train_clips"] = len(rows_of(footage.manifest, "train"))
        epoch = measure_epoch(recipe, footage, device=device, workers=workers, batches=READ_BATCHES, limit_s=10)
        facts["epoch_s"] = round(epoch.epoch_s, 2)
        facts["wait_share"] = round(epoch.waits, 2)
        facts["predicted_time"] = f"{format_s(recipe.train.epochs * epoch.epoch_s)} without validation"
    return facts


def _drawn(recipe: Recipe, model: VideoModel, footage: Footage | None) -> torch.Tensor:
    """Draw a batch of the size that training has: pixels, or features of the widths that the recipe or store gives."""
    if footage is not None:
        check_input(model, recipe, footage)
    data, batch = recipe.data, recipe.train.batch_size
    if model.input_kind == "features":
        widths = recipe.model.options.get("feature_sizes") or MODELS.schema(recipe.model.name)["feature_sizes"].default
        return torch.randn(batch, data.num_frames, sum(widths))
    shape = (batch, data.num_frames, 3, data.crop_px, data.crop_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _time_steps(recipe: Recipe, model: VideoModel, clips: torch.Tensor, num_labels: int, bf16: bool) -> float:
    loss = build_loss(recipe, torch.ones(num_labels))
    targets = torch.zeros(len(clips), num_labels, device=clips.device)
    times = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        with torch.autocast(clips.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(clips)
        training_loss(model, logits.float(), targets, loss).backward()
        model.zero_grad(set_to_none=True)
        if clips.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[TIMED_STEPS // 2]


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
