"""`reeltag bench decode`: CPU time from a file to a training clip, beside decord + OpenCV doing what mmaction2 does."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reeltag.bench import BENCHES
from reeltag.errors import ReeltagError
from reeltag.media import open_video
from reeltag.media.encode import write_video
from reeltag.media.sampling import segments
from reeltag.media.transforms import RandomResizedCrop

NUM_FRAMES, CROP_PX, SHORT_SIDE_PX = 8, 224, 256
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def moving_clip(path: Path, gop: int, *, seconds: int = 10, fps: int = 30, seed: int = 0) -> None:
    """Write a 340 x 256 clip of drifting texture, discs and a little noise: x264, a key frame every `gop` frames."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.random((1, 3, 20, 26), dtype=np.float32))
    field = torch.nn.functional.interpolate(coarse, (340, 460), mode="bicubic")[0].permute(1, 2, 0).numpy() * 200 + 20
    rows, columns = np.mgrid[:256, :340]
    centres, speeds = random.random((5, 2)) * (256, 340), random.normal(0, 60, (5, 2))
    colours, noise = random.random((5, 3)) * 255, random.normal(0, 3, (8, 256, 340, 1))
    frames = np.empty((seconds * fps, 256, 340, 3), dtype=np.uint8)
    for i in range(len(frames)):
        t = i / fps
        top, left = int(40 + 40 * np.sin(t)), int(60 + 60 * np.cos(0.7 * t))
        picture = field[top : top + 256, left : left + 340] + noise[i % 8]
        for centre, speed, colour in zip(centres, speeds, colours, strict=True):
            y, x = (centre + speed * t) % (256, 340)
            picture[(rows - y) ** 2 + (columns - x) ** 2 < 900] = colour
        frames[i] = picture.clip(0, 255)
    options = {"x264-params": "threads=1", "g": str(gop), "sc_threshold": "40"}
    write_video(path, frames, fps, crf=23, preset="medium", codec_options=options)


def reeltag_clip(path: str, seed: int) -> torch.Tensor:
    """Return float (8, 3, 224, 224): 8 segment frames, random resized crop, by this package."""
    generator = torch.Generator().manual_seed(seed)
    with open_video(path) as video:
        clip = video.frames_at(segments(video.num_frames, NUM_FRAMES, generator=generator))
    clip, _ = RandomResizedCrop(CROP_PX, SCALE, RATIO)(clip, generator)
    return clip.float()


def mmaction2_clip(path: str, seed: int) -> NDArray[np.float32]:
    """Return float (8, 3, 224, 224) the way mmaction2's pipeline does it, with decord and OpenCV.

    DecordInit (one thread), SampleFrames (8 segments), DecordDecode (exact), Resize (short side 256), RandomResizedCrop
    and Resize to 224, FormatShape.
    """
    import cv2
    import decord

    generator = torch.Generator().manual_seed(seed)
    reader = decord.VideoReader(path, num_threads=1)
    frames = reader.get_batch(segments(len(reader), NUM_FRAMES, generator=generator)).asnumpy()
    height, width = frames.shape[1:3]
    factor = SHORT_SIDE_PX / min(height, width)
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    frames = [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames]
    random = np.random.default_rng(seed)
    areas = random.uniform(*SCALE, 10) * size[0] * size[1]
    ratios = np.exp(random.uniform(np.log(RATIO[0]), np.log(RATIO[1]), 10))
    sides = np.round(np.sqrt(np.stack([areas * ratios, areas / ratios], 1))).astype(int)
    crop_w, crop_h = next((side for side in sides if side[0] < size[0] and side[1] < size[1]), (min(size), min(size)))
    x, y = random.integers(size[0] - crop_w + 1), random.integers(size[1] - crop_h + 1)
    crops = [frame[y : y + crop_h, x : x + crop_w] for frame in frames]
    crops = [cv2.resize(frame, (CROP_PX, CROP_PX), interpolation=cv2.INTER_LINEAR) for frame in crops]
    return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2), dtype=np.float32)


def _cpu_s(make: Any, path: str, seed: int) -> float:
    start = time.process_time()
    made = make(path, seed)
    spent = time.process_time() - start
    if tuple(made.shape) != (NUM_FRAMES, 3, CROP_PX, CROP_PX):
        raise AssertionError(f"{make.__name__} gave {tuple(made.shape)}")
    return spent


def measure(videos: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Return the ratio of CPU times, peer / reeltag, pair by pair: the same video and seed, one after the other.

    Args:
        videos: files; each is read once before the clock starts.
        rounds: pairs per video; the order inside a pair alternates.
    """
    import cv2
    import decord

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table: list[dict[str, Any]] = []
    try:
        for video in map(str, videos):
            ours: list[float] = []
            peer: list[float] = []
            for make in (reeltag_clip, mmaction2_clip):
                make(video, 0)
            for seed in range(rounds):
                for make in (reeltag_clip, mmaction2_clip)[:: 1 if seed % 2 else -1]:
                    (ours if make is reeltag_clip else peer).append(_cpu_s(make, video, seed))
            table.append({
                "video": Path(video).name,
                "reeltag_ms": round(statistics.median(ours) * 1e3, 2),
                "peer_ms": round(statistics.median(peer) * 1e3, 2),
                "ratios": [round(p / o, 3) for p, o in zip(peer, ours, strict=True)],
            })  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    ratios = [ratio for row in table for ratio in row["ratios"]]
    return {
        "what": "CPU time of decord + OpenCV as in mmaction2, divided by reeltag's; file to float (8, 3, 224, 224)",
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_lowest_video": min(round(statistics.median(row["ratios"]), 3) for row in table),
        "pairs": len(ratios),
        "videos": [{**row, "ratios": statistics.median(row["ratios"])} for row in table],
        "load_1_min": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "decord": decord.__version__, "opencv": cv2.__version__},
    }


@BENCHES.register("decode")
def run(videos: Sequence[str | Path] | str | None = None, rounds: int = 15, out: str | None = None) -> dict[str, Any]:
    """Measure decoding beside decord + OpenCV, print and write the result.

    Args:
        videos: files, or one folder of mp4 files; None makes two clips (key frame every 12 and every 250 frames).
        rounds: pairs per video.
        out: the JSON file; None writes it beside this script, for made clips only.

    Returns:
        Ratios (above 1: reeltag needs less), times and versions.

    Raises:
        ReeltagError: decord or OpenCV is missing, or there is no video.
    """
    try:
        import cv2  # noqa: F401
        import decord  # noqa: F401
    except ImportError as error:
        raise ReeltagError(f"{error.name} is missing; install the peers with `pip install reeltag[dev]`") from None
    with tempfile.TemporaryDirectory() as folder:
        if videos is None:
            paths = [Path(folder) / f"gop_{gop}.mp4" for gop in (12, 250)]
            for path, gop in zip(paths, (12, 250), strict=True):
                moving_clip(path, gop)
        elif isinstance(videos, str):
            paths = sorted(Path(videos).rglob("*.mp4")) if Path(videos).is_dir() else [Path(videos)]
        else:
            paths = [Path(video) for video in videos]
        if not paths:
            raise ReeltagError(f"no video in {videos!r}; give files, or a folder of mp4 files")
        result = measure(paths, rounds)
    target = Path(out) if out else Path(__file__).with_suffix(".json") if videos is None else None
    text = json.dumps(result, indent=1)
    if target:
        target.write_text(text + "\n", encoding="utf-8")
    print(text)
    return result
