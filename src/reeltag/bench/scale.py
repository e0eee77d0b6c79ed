"""`reeltag bench scale`: tagging a folder here, and by ray with one and more workers: speed, start and memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reeltag.bench import BENCHES
from reeltag.errors import ReeltagError
from reeltag.inference.predict import find_videos
from reeltag.store.atomic import write_json

_SAID = re.compile(r"([\d.]+) videos/s, after ([\d.]+) s to start ray")
_PERIOD_S = 0.5


def memory_mib(pid: int) -> float:
    """Return the memory of a process and all below it, shared pages in their share; 0 where there is no /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it ended meanwhile
            continue
    tree = {pid}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    total = 0
    for each in tree:
        try:
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(found[1]) if found else 0
    return total / 1024


def tagged(run: str, list_file: Path, out: Path, *words: str) -> dict[str, Any]:
    """Run `reeltag tag` in a process of its own; returns seconds, peak memory, and what ray says of itself."""
    command = [sys.executable, "-m", "reeltag", "tag", run, str(list_file), "--out", str(out), *words]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mib(process.pid))
            time.sleep(_PERIOD_S)
        wall_s = time.perf_counter() - started
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise ReeltagError(f"`{' '.join(command[2:])}` ended with {process.returncode}: {text[-300:]}")
    result: dict[str, Any] = {"wall_s": round(wall_s, 1), "peak_mib": round(peak)}
    if found := _SAID.search(text):
        result |= {"videos_per_s_once_running": float(found[1]), "ray_start_s": float(found[2])}
    return result


@BENCHES.register("scale")
def run_scale(
    run: str | None = None,
    videos: str | None = None,
    count: int = 200,
    most: int = 2,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure `reeltag tag` here and with `--engine ray`, one process after the other, print and write the result.

    Args:
        run: a run folder or a bundle.
        videos: a folder.
        count: how many of its videos, the first by name.
        most: workers, from 1 to this number.
        out: a JSON file to write; None writes none.

    Raises:
        ReeltagError: no run or no folder is given, a call fails, or the tables differ.
    """
    if run is None or videos is None:
        raise ReeltagError("give a model and a folder: `reeltag bench scale run=RUN videos=DIR`")
    found = find_videos([videos])[:count]
    engines: dict[str, list[str]] = {"local": []}
    engines |= {f"ray_{number}": ["--engine", "ray", "--workers", str(number)] for number in range(1, most + 1)}
    result: dict[str, Any] = {
        "what": "the same videos tagged by `reeltag tag`, from the start of the command to its end",
        "videos": len(found),
        "cores": os.cpu_count(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "list.csv"
        rows.write_text("path\n" + "".join(f"{path.absolute()}\n" for path in found))
        for name, words in engines.items():
            result[name] = tagged(run, rows, Path(folder) / f"{name}.parquet", *words)
            result[name]["videos_per_s"] = round(len(found) / result[name]["wall_s"], 2)
            result[name]["same_table"] = (Path(folder) / f"{name}.parquet").read_bytes() == (
                Path(folder) / "local.parquet"
            ).read_bytes()
    if out is not None:
        write_json(Path(out), result)
    print(json.dumps(result, indent=1))
    return result
