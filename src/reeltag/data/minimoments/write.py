"""Writing MiniMoments: plan, draw and encode every clip, then the manifest."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reeltag.data.minimoments.labels import LABELS
from reeltag.data.minimoments.picture import FPS, NUM_FRAMES, Picture, compose, render
from reeltag.data.minimoments.plan import ClipPlan, plan_split
from reeltag.data.minimoments.sound import RATE_HZ, synthesise
from reeltag.errors import ReeltagError
from reeltag.media.encode import write_video

COLUMNS = ("path", "labels", "video_id", "split", "pair", "factors")
KEYFRAME_EVERY = 12  # frames, from a random phase


def plan_clips(
    num_train: int = 2000, num_val: int = 400, num_test: int = 400, *, seed: int = 0, tail: float = 20.0
) -> list[ClipPlan]:
    """Return the plans of all splits: train with a long tail, val and test without one and with reversal twins.

    Args:
        num_train: clips to train on; so for `num_val` and `num_test`. All are >= 0.
        num_val: see above.
        num_test: see above; the clips of one split do not depend on the size of another.
        seed: of the set.
        tail: commonest over rarest label within appearance, sound and scene of the train split, >= 1.

    Raises:
        ReeltagError: a number outside its range.
    """
    for name, count in (("num_train", num_train), ("num_val", num_val), ("num_test", num_test), ("seed", seed)):
        if count < 0:
            raise ReeltagError(f"{name} is {count}; it must be 0 or more. Give a larger number.")
    if tail < 1:
        raise ReeltagError(f"tail is {tail}; it is a ratio of label counts and must be 1 or more (1: equal counts).")
    return [
        *plan_split("train", num_train, seed=seed, tail=tail),
        *plan_split("val", num_val, seed=seed, twins=True),
        *plan_split("test", num_test, seed=seed, twins=True),
    ]


def _streams(seed: int, index: int) -> tuple[np.random.Generator, ...]:
    """Return the generators of one clip: for places, colours, sound and key frames."""
    return tuple(np.random.default_rng([seed, index]).spawn(4))


def compose_clip(plan: ClipPlan, seed: int) -> Picture:
    """Return where everything is in the picture of a clip, as drawn: a `reverse` clip shows these frames backwards."""
    return compose(plan.backwards() if plan.reverse else plan, _streams(seed, plan.picture_index)[0])


def render_clip(plan: ClipPlan, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Return the frames of a clip, (36, 112, 112, 3) RGB, and its sound, (48000,) at 16 kHz or None."""
    frames = render(compose_clip(plan, seed), plan.scene, _streams(seed, plan.picture_index)[1])
    sound = synthesise(plan.sound, _streams(seed, plan.index)[2]) if plan.sound else None
    return (frames[::-1] if plan.reverse else frames), sound


def write_clip(plan: ClipPlan, out: Path, seed: int) -> None:
    """Write one clip as an mp4 file into `out`/videos; its bytes depend on the plan and the seed alone."""
    frames, sound = render_clip(plan, seed)
    # Key frames look a little different from the others, so where they fall must not tell the time.
    phase = int(_streams(seed, plan.index)[3].integers(1, KEYFRAME_EVERY + 1))
    keyframes = range(phase, NUM_FRAMES, KEYFRAME_EVERY)
    write_video(out / "videos" / f"{plan.video_id}.mp4", frames, FPS, audio=sound, rate_hz=RATE_HZ, keyframes=keyframes)


def write_minimoments(
    out: Path | str,
    num_train: int = 2000,
    num_val: int = 400,
    num_test: int = 400,
    *,
    seed: int = 0,
    workers: int = 2,
    tail: float = 20.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write MiniMoments: real mp4 files with sound whose labels have known causes.

    Args:
        out: a folder, made if missing. Files of the same names are replaced.
        num_train: clips in the train split.
        num_val: clips in the validation split.
        num_test: clips in the test split.
        seed: of the set; the same seed gives the same bytes on one machine.
        workers: processes; they change the speed alone. With 2 or more, a script that calls this needs Python's
            `if __name__ == "__main__":`, as with any process pool.
        tail: commonest over rarest label within appearance, sound and scene of the train split, >= 1.
        progress: called with (clips done, clips in all).

    Returns:
        The path of `out`/manifest.csv: path, labels (`a|b|c`), video_id, split, pair (the two motion labels that
        playing backwards swaps, or empty) and factors (JSON: what is in the clip and is no label). `out`/labels.txt
        names the labels, one a line, in the order of their index; `out`/videos holds the files.

    Raises:
        ReeltagError: a number outside its range.
    """
    out = Path(out)
    plans = plan_clips(num_train, num_val, num_test, seed=seed, tail=tail)
    if workers < 1:
        raise ReeltagError(f"workers is {workers}; it must be 1 or more. Give the number of processes to use.")
    (out / "videos").mkdir(parents=True, exist_ok=True)
    write = partial(write_clip, out=out, seed=seed)
    for done, _ in enumerate(_map(write, plans, workers), start=1):
        if progress is not None:
            progress(done, len(plans))
    _replace(out / "labels.txt", "".join(f"{label}\n" for label in LABELS))
    return _replace(out / "manifest.csv", _manifest(plans, seed))


def _map(write: partial[None], plans: Sequence[ClipPlan], workers: int) -> Iterator[None]:
    if workers == 1 or len(plans) < 2:
        yield from map(write, plans)
        return
    # "spawn", because forking a process that already runs threads (PyAV, torch) can hang.
    with ProcessPoolExecutor(min(workers, len(plans)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, plans, chunksize=8)


def _factors(plan: ClipPlan, seed: int) -> dict[str, object]:
    """Return what is in a clip; places are x, y and radius in pixels and the angle in degrees of the mover."""
    picture = compose_clip(plan, seed)
    ends = picture.track[[-1, 0] if plan.reverse else [0, -1]]
    ends = np.stack([ends[:, 0], ends[:, 1], np.exp(ends[:, 2]), np.degrees(ends[:, 3])], -1)
    return {
        "mover": picture.mover,
        "mover_from": ends[0].round(1).tolist(),
        "mover_to": ends[1].round(1).tolist(),
        "still": picture.still,
        "order": plan.order,
        "sound": plan.sound,
        "twin_of": plan.twin_id,
    }


def _manifest(plans: Iterable[ClipPlan], seed: int) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for plan in plans:
        labels = "|".join(sorted(plan.labels, key=LABELS.index))
        factors = json.dumps(_factors(plan, seed), sort_keys=True)
        writer.writerow((f"videos/{plan.video_id}.mp4", labels, plan.video_id, plan.split, plan.pair, factors))
    return text.getvalue()


def _replace(path: Path, text: str) -> Path:
    """Write a text file so that a reader sees the old one or the new one whole."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8", newline="")
    os.replace(unfinished, path)
    return path
