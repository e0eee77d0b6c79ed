"""What a recipe will cost: parameters, multiply-accumulates, memory and time, from a few real steps."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from reeltag.build import build_loss, build_model, rows_of
from reeltag.data.footage import Footage
from reeltag.data.sound_views import training_samples
from reeltag.engine.epoch_time import measure_epoch
from reeltag.engine.monitor import format_s
from reeltag.engine.protocol import prepare_model
from reeltag.engine.step import Batch, cut
from reeltag.hardware import resolve_device, resolve_precision
from reeltag.inputs import check_input, modalities_of
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.scoring import model_inputs
from reeltag.models.training_loss import training_loss
from reeltag.recipe import Recipe
from reeltag.schema import INPUT_NAMES

TIMED_STEPS = 3
READ_BATCHES = 8


def predict_cost(
    recipe: Recipe, footage: Footage | None, *, device: str = "auto", workers: int | None = None
) -> dict[str, Any]:
    """Time a few training steps on drawn clips, then on batches that are read, and return what a whole run will take.

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
    clips = _drawn(recipe, model, footage)
    bf16 = resolve_precision(recipe.train.precision, device) == "bf16"
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gmacs_per_clip": round(model.flops(*model_inputs(model, cut(clips, 0, 1))) / 2e9, 3),
        "precision": "bf16" if bf16 else "fp32",
        "device": str(target),
    }
    step_s = _time_steps(recipe, model, clips, num_labels, bf16, target)
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


def _drawn(recipe: Recipe, model: VideoModel, footage: Footage | None) -> Batch:
    """Draw a batch of the size that training has: pictures, flow, sound, or features as wide as the recipe's."""
    if footage is not None:
        check_input(model, recipe, footage)
    data, batch = recipe.data, recipe.train.batch_size
    if model.input_kind == "features":
        widths = recipe.model.options.get("feature_sizes") or MODELS.schema(recipe.model.name)["feature_sizes"].default
        features = torch.randn(batch, 1, data.num_frames, sum(widths))
        return {"features": features, "mask": torch.ones(features.shape[:3], dtype=torch.bool)}
    modalities = modalities_of(recipe, model)
    drawn: Batch = {"present": torch.ones(batch, len(modalities), dtype=torch.bool)}
    for name, channels in (("rgb", 3), ("flow", data.flow.channels)):
        if name in modalities:
            shape = (batch, 1, data.num_frames, channels, data.crop_px, data.crop_px)
            drawn[INPUT_NAMES[name]] = torch.randint(0, 256, shape, dtype=torch.uint8)
    if "audio" in modalities:
        drawn["waveform"] = 2 * torch.rand(batch, 1, training_samples(data.audio)) - 1
    return drawn


def _time_steps(
    recipe: Recipe, model: VideoModel, clips: Batch, num_labels: int, bf16: bool, device: torch.device
) -> float:
    loss = build_loss(recipe, torch.ones(num_labels))
    targets = torch.zeros(recipe.train.batch_size, num_labels, device=device)
    inputs = model_inputs(model, clips, device)
    times = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(*inputs)
        training_loss(model, logits.float(), targets, loss).backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[TIMED_STEPS // 2]


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
