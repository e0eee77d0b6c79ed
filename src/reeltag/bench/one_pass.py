"""`reeltag bench one_pass`: reading a file once for pictures, flow and sound, beside decoding each track on its own."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from reeltag.bench import BENCHES
from reeltag.data.minimoments.plan import ClipPlan
from reeltag.data.minimoments.write import plan_clips, write_clip
from reeltag.data.sources import FileSource
from reeltag.errors import ReeltagError
from reeltag.media import open_media, open_video
from reeltag.media.audio import read_sound
from reeltag.media.gate import admit
from reeltag.media.limits import DEFAULT_LIMITS
from reeltag.media.sampling import segments
from reeltag.sections import FlowSection
from reeltag.store.atomic import write_json

RATE_HZ, NUM_FRAMES, GOAL = 16_000, 8, 1.15
_FLOW = FlowSection()


def _frames(num_frames: int, whole: bool) -> tuple[list[int], list[int]]:
    """Return the frames of a clip, and with those that its flow needs as well."""
    chosen = list(range(num_frames)) if whole else segments(num_frames, NUM_FRAMES)
    pairs = {min(i + k, num_frames - 1) for i in chosen for k in (0, _FLOW.step)}
    return chosen, sorted(pairs | set(chosen))


def one_pass(path: str, whole: bool) -> int:
    """Read pictures, the frames of flow pairs and the waveform of one file, opened once; return what was read."""
    with FileSource(path, open_media(path)) as source:
        chosen, wanted = _frames(source.num_frames, whole)
        source.keep(chosen, _FLOW)
        frames, pairs = source.frames_at(chosen), source.frames_at(wanted)
        wave = source.waveform(RATE_HZ)
        return len(frames) and len(pairs) + (0 if wave is None else 1)


def video_once(path: str, whole: bool) -> int:
    """Decode the same frames, and nothing else."""
    with open_video(path) as video:
        return len(video.frames_at(_frames(video.num_frames, whole)[1]))


def audio_once(path: str, whole: bool) -> int:
    """Decode the sound track, and nothing else: no picture's time is looked at."""
    admitted = admit(path)
    try:
        return len(read_sound(admitted, DEFAULT_LIMITS, RATE_HZ, None))
    finally:
        admitted.close()


def _cpu_s(read: Callable[[str, bool], int], path: str, whole: bool) -> float:
    started = time.process_time()
    read(path, whole)
    return time.process_time() - started


def measure(videos: Sequence[Path], rounds: int, *, whole: bool) -> dict[str, Any]:
    """Return the ratio of CPU times, one pass / (video once + audio once), pair by pair on the same file.

    Args:
        videos: files with pictures and sound; each is read once before the clock starts.
        rounds: pairs a file; the order inside a pair alternates.
        whole: every frame, or 8 frames of 8 segments with the second frame of each flow pair.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratios: list[float] = []
    together: list[float] = []
    apart: list[float] = []
    try:
        for path in map(str, videos):
            one_pass(path, whole)
            for number in range(rounds):
                taken: dict[str, float] = {}
                for read in (one_pass, video_once, audio_once)[:: 1 if number % 2 else -1]:
                    taken[read.__name__] = _cpu_s(read, path, whole)
                together.append(taken["one_pass"])
                apart.append(taken["video_once"] + taken["audio_once"])
                ratios.append(together[-1] / apart[-1])
    finally:
        torch.set_num_threads(threads)
    return {
        "frames": "all" if whole else f"{NUM_FRAMES} and their flow pairs",
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(value, 3) for value in statistics.quantiles(ratios)],
        "one_pass_ms": round(statistics.median(together) * 1e3, 2),
        "apart_ms": round(statistics.median(apart) * 1e3, 2),
        "pairs": len(ratios),
    }


def made_clips(folder: Path, count: int = 4) -> list[Path]:
    """Write MiniMoments clips of 3 s with sound (112 px, H.264, AAC) and return their paths."""
    (folder / "videos").mkdir()
    heard: list[ClipPlan] = [plan for plan in plan_clips(8 * count, 0, 0, seed=0) if plan.sound][:count]
    for plan in heard:
        write_clip(plan, folder, seed=0)
    return [folder / "videos" / f"{plan.video_id}.mp4" for plan in heard]


@BENCHES.register("one_pass")
def run(videos: str | Sequence[str] | None = None, rounds: int = 15, out: str | None = None) -> dict[str, Any]:
    """Measure reading a file for three modalities at once, print and write the result; computing flow is left out.

    Args:
        videos: a file, several, or a folder of mp4 files, with pictures and sound; None makes four clips of 3 s.
        rounds: pairs a file.
        out: the JSON file; None writes it beside this script, for made clips only.

    Raises:
        ReeltagError: there is no video.
    """
    with tempfile.TemporaryDirectory() as folder:
        if videos is None:
            paths = made_clips(Path(folder))
        elif isinstance(videos, str):
            paths = sorted(Path(videos).rglob("*.mp4")) if Path(videos).is_dir() else [Path(videos)]
        else:
            paths = [Path(video) for video in videos]
        if not paths:
            raise ReeltagError(f"no video in {videos!r}; give files, or a folder of mp4 files")
        rows = [measure(paths, rounds, whole=whole) for whole in (False, True)]
    result = {
        "what": "CPU time of one pass over a file for pictures, flow pairs and sound / (pictures once + sound once)",
        "ratio_median": max(row["ratio_median"] for row in rows),
        "goal": GOAL,
        "rows": rows,
        "files": len(paths),
        "load_1_min": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
    }
    target = Path(out) if out else Path(__file__).with_suffix(".json") if videos is None else None
    if target:
        write_json(target, result)
    print(json.dumps(result, indent=1))
    return result
