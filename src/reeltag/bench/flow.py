"""`reeltag bench flow`: what each method of optical flow costs, and how near it comes to motion that is known."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reeltag.bench import BENCHES
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import write_flow
from reeltag.data.manifest import Manifest
from reeltag.data.minimoments import write_minimoments
from reeltag.errors import RecipeError
from reeltag.inference.network_flow import NetworkFlow
from reeltag.media import open_video
from reeltag.media.flow import FlowFunction, FlowMethod, compute_flow, require_opencv
from reeltag.store.atomic import write_json

PARTS = ("shifts", "cost", "clips", "directions")
SIZES = ((112, 112), (224, 224), (256, 340))  # height, width
SHIFTS = ((1.0, 0.0), (-3.0, 2.0), (0.5, 0.25), (-1.75, 3.5), (8.0, -6.0), (0.0, 15.0))  # x, y in pixels
DIRECTIONS = {"motion_left": (0, -1), "motion_right": (0, 1), "motion_up": (1, -1), "motion_down": (1, 1)}
BORDER_PX = 16  # what enters the picture has no flow to be found
STEP = 3  # frames between those of a pair of MiniMoments, about 4 px
Methods = dict[str, FlowMethod | FlowFunction]


def waves(x_px: float, y_px: float, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Return a sum of plane waves 12 to 60 px long, moved by (x_px, y_px), exact for any shift: uint8 (3, H, W)."""
    random = np.random.default_rng(seed)
    count = 24
    angle, length = random.uniform(0, 2 * np.pi, count), random.uniform(12, 60, count)
    phase = random.uniform(0, 2 * np.pi, count)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    along = (x - x_px)[..., None] * np.cos(angle) + (y - y_px)[..., None] * np.sin(angle)
    level = np.sin(2 * np.pi * along / length + phase).sum(-1) / np.sqrt(count / 2)  # (H, W), deviation 1
    grey = torch.from_numpy(np.clip(128 + 50 * level, 0, 255).round().astype(np.uint8))
    return grey.expand(3, -1, -1)


def shifts(methods: Methods) -> list[dict[str, Any]]:
    """Return the mean end-point error of each method on textures of 224 px whose shift is known, in pixels."""
    rows = []
    for shift in SHIFTS:
        frames = torch.stack([waves(0, 0, 224, 224), waves(*shift, 224, 224)])
        row: dict[str, Any] = {"shift_px": shift}
        for name, method in methods.items():
            flow = compute_flow(frames, [(0, 1)], method)[0] - torch.tensor(shift).view(2, 1, 1)
            inner = flow[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
            row[f"{name}_error_px"] = round(float(inner.square().sum(0).sqrt().mean()), 4)
        rows.append(row)
    return rows


def cost(methods: Methods, rounds: int) -> list[dict[str, Any]]:
    """Return the CPU milliseconds of a pair by size: the median over pairs of a drifting texture with noise."""
    rows = []
    for height, width in SIZES:
        frames = _drifting(rounds + 2, height, width)
        row: dict[str, Any] = {"height_px": height, "width_px": width}
        for name, method in methods.items():
            row[f"{name}_ms"] = _ms(frames, method)
        rows.append(row)
    return rows


def _ms(frames: Tensor, method: FlowMethod | FlowFunction) -> float:
    """Return the median CPU milliseconds of the pairs (n, n + 1), the first of which only prepares."""
    spent = [_cpu_s(lambda n=n: compute_flow(frames, [(n, n + 1)], method)) for n in range(len(frames) - 1)]  # type: ignore[misc]
    return round(1e3 * statistics.median(spent[1:]), 2)


def _drifting(count: int, height: int, width: int) -> Tensor:
    noise = torch.Generator().manual_seed(0)
    frames = [waves(1.3 * n, -0.7 * n, height, width) for n in range(count)]
    rough = torch.stack(frames).float() + 3 * torch.randn(count, 1, height, width, generator=noise)
    return rough.clamp(0, 255).to(torch.uint8)


def clips(methods: Methods, folder: Path, count: int) -> list[dict[str, Any]]:
    """Return MiniMoments clips a second, file to stored flow, on one core: 36 frames of 112 px each."""
    manifest = Manifest.read(folder / "manifest.csv")
    rows = []
    for name, method in methods.items():
        if callable(method):
            continue
        some = manifest.take(range(count if name == "dis" else max(1, count // 20)))
        settings = FlowSettings(method=method, short_side_px=112)
        out = folder / f"flow_{name}"
        seconds = _cpu_s(lambda: write_flow(some, out, settings, workers=0))  # noqa: B023  # called at once
        rows.append({"method": name, "clips": len(some), "clips_per_s": round(len(some) / seconds, 3)})
    return rows


def directions(methods: Methods, folder: Path, count: int) -> list[dict[str, Any]]:
    """Return on how many MiniMoments clips the flow has the sign of the motion label.

    The background drifts by itself, so what counts is the mean over pixels and pairs of the flow less that of the
    background, the median of the field.
    """
    manifest = Manifest.read(folder / "manifest.csv")
    rows = []
    for label, (axis, sign) in DIRECTIONS.items():
        index = manifest.label_names.index(label)
        those = [row for row in range(len(manifest)) if index in manifest.labels[row]][:count]
        row: dict[str, Any] = {"label": label, "clips": len(those)}
        for name, method in methods.items():
            row[name] = sum(sign * moved(_pairs_of(manifest.video_path(one)), method)[axis] > 0 for one in those)
        rows.append(row)
    return rows


def moved(frames: Tensor, method: FlowMethod | FlowFunction) -> tuple[float, float]:
    """Return the mean flow (x, y) of what moves against the background.

    Args:
        frames: uint8 (2 * P, 3, H, W): P pairs, one after the other.
        method: see `compute_flow`.
    """
    pairs = [(n, n + 1) for n in range(0, len(frames), 2)]
    flow = compute_flow(frames, pairs, method).flatten(2)  # (P, 2, H * W)
    x, y = (flow - flow.median(2, keepdim=True).values).mean((0, 2)).tolist()
    return x, y


def pair_numbers(num_frames: int) -> list[int]:
    """Return the frames of some pairs `STEP` apart, one pair after the other."""
    return [n + k for n in range(0, num_frames - STEP, 2 * STEP) for k in (0, STEP)]


def _pairs_of(path: Path) -> Tensor:
    with open_video(path) as video:
        return video.frames_at(pair_numbers(video.num_frames))


def _cpu_s(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _methods(names: str, weights: str | None) -> Methods:
    known: Methods = {"tvl1": "tvl1", "dis": "dis"}
    if weights is not None:
        known["raft"] = NetworkFlow(weights, "cpu")
    chosen = names.split("+") if names != "all" else list(known)
    strange = [name for name in chosen if name not in known]
    if strange:
        more = "" if weights else "; raft needs weights=FILE"
        raise RecipeError(f"methods={names}: {strange[0]!r} is none of {', '.join(known)}{more}")
    return {name: known[name] for name in chosen}


@BENCHES.register("flow")
def run(
    parts: str = "all",
    methods: str = "all",
    weights: str | None = None,
    rounds: int = 9,
    count: int = 40,
    out: str = "results/flow.json",
) -> dict[str, Any]:
    """Measure optical flow on one thread, print and write the result.

    Args:
        parts: `all`, or some of shifts, cost, clips and directions, joined by +; the file keeps the others.
        methods: `all`, or some of tvl1, dis and, with `weights`, raft.
        weights: a file of torchvision's RAFT weights.
        rounds: pairs a size and method; count: MiniMoments clips (a twentieth of them for slow methods).
        count: see above; per direction a quarter of it.
        out: the JSON file.

    Raises:
        ReeltagError: OpenCV is missing, or a part or method that there is not.
    """
    wanted = PARTS if parts == "all" else tuple(parts.split("+"))
    if strange := set(wanted) - set(PARTS):
        raise RecipeError(f"parts={parts}: {sorted(strange)[0]!r} is none of {', '.join(PARTS)}")
    cv2, chosen = require_opencv("tvl1"), _methods(methods, weights)
    path = Path(out)
    result: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    result["what"] = "CPU time of one thread; errors in pixels, what enters at the border left out"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if "shifts" in wanted:
            result["shifts"] = shifts(chosen)
        if "cost" in wanted:
            result["cost"] = cost(chosen, rounds)
        if {"clips", "directions"} & set(wanted):
            with tempfile.TemporaryDirectory() as folder:
                write_minimoments(folder, 10, 10, 5 * count, workers=1)
                if "clips" in wanted:
                    result["clips"] = clips(chosen, Path(folder), count)
                if "directions" in wanted:
                    result["directions"] = directions(chosen, Path(folder), max(1, count // 4))
    finally:
        torch.set_num_threads(threads)
    result["cores"], result["load_1_min"] = os.cpu_count(), round(os.getloadavg()[0], 2)
    result["machine"] = platform.machine()
    result["versions"] = {"torch": torch.__version__, "opencv": cv2.__version__}
    write_json(path, result)
    print(json.dumps(result, indent=1))
    return result
