"""Training speed of large video networks on one GPU: clips a second and the share of its bf16 peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reeltag.build import create_model
from reeltag.models.interface import VideoModel

# Name, frames, pixels, clips of a batch: the first batch that fits is halved until it does.
ROWS = (
    ("slowfast_r101", 32, 112, 128),
    ("slowfast_r101", 32, 224, 32),
    ("r2plus1d_34", 32, 112, 64),
    ("tin_resnet50", 8, 224, 128),
)
# Dense bf16 multiply-adds a second of data sheets, counted as two operations, by a word of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
# Floating-point operations of a training step over those of a forward pass: once forward, twice backward.
TRAINING = 3
WARM_UP, STEPS = 3, 10


def gpu_rows(rounds: int) -> dict[str, Any]:
    """Return a row for each network and size, eager and compiled, and what a large matrix product reaches beside."""
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    peak = next((value for word, value in PEAKS.items() if word in name), None)
    product = matmul_flops(device, rounds)
    rows = []
    for network, frames, side, batch in ROWS:
        for compiled in (False, True):
            row = train_row(network, frames, side, batch, compiled=compiled, rounds=rounds, device=device)
            done = row.pop("flops_per_s")
            row["tflops"] = round(done / 1e12, 1)
            row["percent_of_matmul"] = round(100 * done / product, 1)
            if peak:
                row["percent_of_peak"] = round(100 * done / peak, 1)
            rows.append(row)
    return {
        "device": name,
        "peak_tflops": peak and peak / 1e12,
        "matmul_tflops": round(product / 1e12, 1),
        "rows": rows,
    }


def matmul_flops(device: torch.device, rounds: int, size: int = 8192) -> float:
    """Return the operations a second of a square bf16 matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _timed(lambda: a @ b, rounds)
    return 2 * size**3 / seconds


def train_row(
    network: str,
    frames: int,
    side: int,
    batch: int,
    *,
    compiled: bool,
    rounds: int,
    device: torch.device,
    **options: Any,
) -> dict[str, Any]:
    """Return clips a second of training steps (forward, backward, SGD with momentum) in bf16 autocast on uint8 clips.

    The batch is halved until it fits; operations are those of convolutions and matrix products alone, three times those
    of a forward pass.
    """
    torch.manual_seed(0)
    model = create_model(network, num_labels=313, num_frames=frames, **options).train()
    flops = model.flops(torch.empty(1, frames, 3, side, side, device="meta"))
    model.to(device)
    while True:
        try:
            seconds = _step_seconds(model, frames, side, batch, compiled, rounds, device)
            break
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if batch == 1:
                raise
            batch //= 2
    return {
        "network": network,
        "clip": [frames, side, side],
        "batch": batch,
        "compiled": compiled,
        "clips_per_s": round(batch / seconds, 1),
        "flops_per_s": TRAINING * flops * batch / seconds,
    }


def _step_seconds(
    model: VideoModel, frames: int, side: int, batch: int, compiled: bool, rounds: int, device: torch.device
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    clips = torch.randint(0, 256, (batch, frames, 3, side, side), dtype=torch.uint8, device=device)
    targets = torch.rand(batch, model.num_labels, device=device).round()
    run: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = run(clips)
        nn.functional.binary_cross_entropy_with_logits(logits.float(), targets).backward()
        optimizer.step()

    return _timed(step, rounds)


def _timed(call: Callable[[], object], rounds: int) -> float:
    """Return the median over rounds of the seconds of one call, measured over several behind a warm-up."""
    on_gpu = torch.cuda.is_available()
    for _ in range(WARM_UP):
        call()
    found = []
    for _ in range(rounds):
        if on_gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(STEPS):
            call()
        if on_gpu:
            torch.cuda.synchronize()
        found.append((time.perf_counter() - started) / STEPS)
    return statistics.median(found)
