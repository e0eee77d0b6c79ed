"""Tagging by ray: a row a video, a pool of workers that hold the model, and lines as they are finished."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reeltag.errors import ReeltagError
from reeltag.inference.any_tagger import TaggerCall
from reeltag.scale.ledger import Ledger
from reeltag.scale.places import Places, find_places
from reeltag.scale.worker import Worker
from reeltag.store.tag_parts import Stamp

# A block is what ray hands to a worker, and what is tagged again when that dies: one row, up to this number of rows.
_MAX_BLOCKS = 20_000
_IN_FLIGHT = 2  # blocks at a worker, so that the next one waits there


@dataclass(frozen=True)
class Tagged:
    """A finished row.

    Attributes:
        row: its number, as given.
        stamp: of its file, see `stamp_of`.
        line: for `--json`.
    """

    row: int
    stamp: Stamp
    line: dict[str, Any]


def places_of(device: str, workers: int | None, gpus: float | None) -> Places:
    """Return the places that the cluster has, once connected; see `find_places`."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return find_places(nodes, device, workers, gpus)


def tag_rows(
    call: TaggerCall, facts: Mapping[str, str], videos: Mapping[int, Path], places: Places, top: int | None
) -> Iterator[Tagged]:
    """Yield the line of each video, in the order in which they finish; `connected` must hold.

    A worker that dies is started again, and its row tried once more; a row that ends two workers has a line with reason
    `crashed`.

    Args:
        call: the model.
        facts: see `facts_of`.
        videos: N files by the number of their row.
        places: how many workers, and what they get.
        top: how many labels to keep, or None.

    Raises:
        ReeltagError: no worker can load the model, or all of the first rows end theirs.
    """
    import ray
    import ray.data

    _hush()
    ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    rows = [
        {"row": row, "video": os.fsencode(video), "path": os.fsencode(video.absolute())}
        for row, video in videos.items()
    ]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)).map(
        Worker,
        fn_constructor_args=(call.absolute(), dict(facts), places.device, top, ledger),
        compute=ray.data.ActorPoolStrategy(size=places.workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
        num_cpus=places.cores,
        num_gpus=places.gpus,
    )
    crashed, trial = 0, max(8, 2 * places.workers)
    try:
        for done, tagged in enumerate(_rows(data), 1):
            crashed += tagged.line.get("error", {}).get("reason") == "crashed"
            if crashed == done == trial:
                why = tagged.line["error"]["message"]
                raise ReeltagError(f"the first {trial} videos all ended their workers, so none is tried further: {why}")
            yield tagged
    except ray.exceptions.RayError as error:
        raise ReeltagError(f"the workers of ray failed: {_cause(error)}") from None
    finally:
        ray.kill(ledger)


def _rows(data: Any) -> Iterator[Tagged]:
    for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
        columns = (batch[name].tolist() for name in ("row", "size", "changed_ns", "line"))
        for row, size, changed_ns, line in zip(*columns, strict=True):
            yield Tagged(row, None if size < 0 else (size, changed_ns), json.loads(line))


def _cause(error: BaseException) -> str:
    """Return the last line that says something, of an error that came through ray."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _hush() -> None:
    """Switch off bars and notes that a person who tags can do nothing about."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
