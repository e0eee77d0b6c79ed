"""`reeltag bench metrics`: CPU time of `map_macro` beside scikit-learn's and torchmetrics' on the same scores."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from reeltag.bench import BENCHES
from reeltag.errors import ReeltagError
from reeltag.metrics import METRICS

Array: TypeAlias = npt.NDArray[Any]

NUM_LABELS = 313  # of Multi-Moments in Time
WANTED_RATIO = 12.0


def drawn_scores(num_videos: int, density: float, seed: int = 0) -> tuple[Array, Array]:
    """Return float32 probabilities (N, 313) that know a little of the truth, and the truth, bool."""
    generator = np.random.default_rng(seed)
    targets = generator.random((num_videos, NUM_LABELS), dtype=np.float32) < density
    targets[0] = True  # each label has a positive: all three mean over the same labels
    scores = generator.standard_normal((num_videos, NUM_LABELS), dtype=np.float32) + targets
    np.negative(scores, out=scores)
    np.exp(scores, out=scores)
    return 1 / (1 + scores), targets


def _cpu_s(function: Callable[[], float]) -> tuple[float, float]:
    started = time.process_time()
    value = float(function())
    return time.process_time() - started, value


def measure(num_videos: int, rounds: int, density: float = 0.01) -> dict[str, Any]:
    """Time the three in turn on one thread and return medians of the ratios of each round; the values must agree."""
    from sklearn.metrics import average_precision_score  # bench-only peers
    from torchmetrics.functional.classification import multilabel_average_precision

    scores, targets = drawn_scores(num_videos, density)
    as_tensors = torch.from_numpy(scores), torch.from_numpy(targets).long()
    each: dict[str, Callable[[], float]] = {
        "reeltag": lambda: METRICS["map_macro"](scores, targets),
        "scikit-learn": lambda: average_precision_score(targets, scores, average="macro"),
        "torchmetrics": lambda: float(multilabel_average_precision(*as_tensors, num_labels=NUM_LABELS)),  # macro
    }
    times: dict[str, list[float]] = {name: [] for name in each}
    METRICS["map_macro"](scores[:2000], targets[:2000])  # loads what it needs
    values = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rounds):
            for name, function in each.items():
                taken, values[name] = _cpu_s(function)
                times[name].append(taken)
    for name, value in values.items():
        if abs(value - values["reeltag"]) > 1e-6:  # torchmetrics sums in float32
            raise ReeltagError(f"{name} gives {value}, reeltag {values['reeltag']}: there is nothing to compare")
    ours = times.pop("reeltag")
    ratios = {
        name: round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2)
        for name, theirs in times.items()
    }
    return {
        "videos": num_videos,
        "labels": NUM_LABELS,
        "share_of_positives": density,
        "reeltag_s": round(statistics.median(ours), 4),
        "seconds": {name: round(statistics.median(theirs), 3) for name, theirs in times.items()},
        "ratio": ratios,
        "largest_difference": max(abs(value - values["reeltag"]) for value in values.values()),
    }


@BENCHES.register("metrics")
def run(rounds: int = 5, sizes: str = "10000,200000", out: str | None = None) -> dict[str, Any]:
    """Measure `map_macro` on each size, print and write the result.

    Args:
        rounds: turns of the three on each size.
        sizes: numbers of videos, separated by commas.
        out: the JSON file; None writes it beside this script.

    Returns:
        CPU times on one thread, ratios (above 1: reeltag needs less) and versions; `holds` says whether every ratio is
        at least 12.

    Raises:
        ReeltagError: torchmetrics is missing, or the values differ.
    """
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        raise ReeltagError("torchmetrics is missing; install the peers with `pip install reeltag[peers]`") from None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        table = [measure(int(size), rounds) for size in str(sizes).split(",")]
    finally:
        torch.set_num_threads(threads)
    result = {
        "what": "CPU time of macro average precision by others, divided by reeltag's; one thread, medians of rounds",
        "sizes": table,
        "holds": all(ratio >= WANTED_RATIO for row in table for ratio in row["ratio"].values()),
        "wanted": WANTED_RATIO,
        "rounds": rounds,
        "load_1_min": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("numpy", "scikit-learn", "torch", "torchmetrics")},
    }
    text = json.dumps(result, indent=1)
    (Path(out) if out else Path(__file__).with_suffix(".json")).write_text(text + "\n", encoding="utf-8")
    print(text)
    return result
