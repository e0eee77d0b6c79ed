"""`reeltag bench data`: how fast clips come, how fast the model takes them, and what an epoch will need."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reeltag.bench import BENCHES
from reeltag.data.footage import open_footage
from reeltag.data.splitting import with_splits
from reeltag.engine.epoch_time import EpochTime, measure_epoch
from reeltag.engine.monitor import format_s
from reeltag.errors import ReeltagError
from reeltag.recipe import load_recipe
from reeltag.store.atomic import write_json


@BENCHES.register("data")
def data(
    recipe: str = "demo/tsm_mini",
    manifest: str = "",
    device: str = "auto",
    workers: int | None = None,
    batches: int = 32,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure reading and training on a few batches, print what an epoch will take and what holds it up.

    Args:
        recipe: a file, or the name of a shipped one.
        manifest: the manifest, or a folder that `data pack` wrote.
        device: where to train.
        workers: loader processes; chosen by the hardware when not given.
        batches: how many to measure.
        out: a JSON file to write as well.

    Raises:
        ReeltagError: no manifest given, or bad input.
    """
    if not manifest:
        raise ReeltagError("no manifest=FILE given; give a manifest or a folder that `reeltag data pack` wrote")
    footage, _ = with_splits(open_footage(manifest))
    given = load_recipe(recipe)
    found = measure_epoch(given, footage, device=device, workers=workers, batches=batches)
    result = {
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(found).items()},
        "epoch_s": round(found.epoch_s, 2),
        "run": format_s(given.train.epochs * found.epoch_s),
        "wait_share": round(found.waits, 3),
        "clips_per_s": round(given.train.batch_size / found.both_s, 2),
        "advice": advice(found, packed=footage.packed),
        "load_1_min": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
    }
    if out:
        write_json(Path(out), result)
    print(json.dumps(result, indent=1))
    return result


def advice(found: EpochTime, *, packed: bool) -> str:
    """Return what would make the epoch shorter."""
    if found.waits < 0.1:
        return "the model sets the pace: a faster device, a smaller model or smaller clips would help, more workers not"
    if not packed:
        return "the model waits for clips: `reeltag data pack` decodes once for all epochs, more --workers share it"
    return "the model waits for clips: more --workers, or shards of smaller frames (`data pack --short-side-px`)"
