"""Memory of one training step of gated NetVLAD-256 at the published size, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from reeltag.errors import ReeltagError
from reeltag.losses import LOSSES
from reeltag.models import MODELS

MIB = 2**20


@dataclass(frozen=True)
class StepSize:
    """Sizes of the step: B videos of T frames with F features, K clusters, a layer of `fc`, L labels."""

    batch: int = 80
    frames: int = 300
    features: int = 1024
    clusters: int = 256
    fc: int = 1024
    labels: int = 3862


def measure_step(size: StepSize | None = None, *, device: str = "cpu", masked: bool = False) -> dict[str, Any]:
    """Return the peak memory of a training step, in MiB, in all and beyond weights, gradients and optimizer state.

    The second step is measured: the first makes the optimizer's state. The batch itself counts as beyond. On a CPU the
    peak is that of the process less what it held before the model was built (Linux alone tells it), on a GPU what torch
    allocated. float32, Adam in its fused form, whose plain form holds copies of the weights while it updates them.

    Args:
        size: of the step.
        device: cpu or a GPU.
        masked: give a mask with 280 to 300 real frames a video in place of none.

    Raises:
        ReeltagError: the peak of a process cannot be read on this system.
    """
    if device == "cpu" and not sys.platform.startswith("linux"):
        raise ReeltagError(f"{sys.platform} does not tell the peak memory of a running process; use Linux or a GPU")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_step_in_process, args=(sender, size or StepSize(), device, masked))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        raise ReeltagError(
            f"the measuring process ended with code {process.exitcode}; about 6 GiB are needed"
        ) from None
    process.join()
    return found


def _step_in_process(sender: Any, size: StepSize, device: str, masked: bool) -> None:
    before = _held(device)
    model = MODELS.build(
        "frames_netvlad", num_labels=size.labels, feature_sizes=(size.features,), num_clusters=size.clusters,
        fc=size.fc, gating="cg", score_gating="scores",
    ).to(device)  # fmt: skip
    weights = sum(parameter.nbytes for parameter in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, fused=True)
    features = torch.randn(size.batch, size.frames, size.features, device=device)
    targets = (torch.rand(size.batch, size.labels, device=device) < 3 / size.labels).float()
    mask = None
    if masked:
        real = torch.linspace(size.frames * 14 // 15, size.frames, size.batch, device=device).long()
        mask = torch.arange(size.frames, device=device) < real.unsqueeze(1)
    for _ in range(2):
        _start_peak(device)
        started = time.perf_counter()
        loss = LOSSES["bce"](model(features, mask), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        spent = time.perf_counter() - started
    peak = _peak(device) - before
    state = sum(t.nbytes for values in optimizer.state.values() for t in values.values() if isinstance(t, torch.Tensor))
    sender.send({
        "model": "frames_netvlad, gating cg, score_gating scores",
        **asdict(size),
        "masked": masked,
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "weights_mib": round(weights / MIB),
        "gradients_mib": round(weights / MIB),
        "optimizer_mib": round(state / MIB),
        "batch_mib": round((features.nbytes + targets.nbytes) / MIB),
        "peak_mib": round(peak / MIB),
        "beyond_mib": round((peak - 2 * weights - state) / MIB),
        "step_s": round(spent, 2),
        "loss": round(value, 4),
    })  # fmt: skip


def _held(device: str) -> int:
    return torch.cuda.memory_allocated(device) if device != "cpu" else _status("VmRSS")


def _start_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak counts from here


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if device != "cpu" else _status("VmHWM")


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
