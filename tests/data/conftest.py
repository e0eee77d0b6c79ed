"""Small manifests and real video files for the tests of the data room."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from reeltag.data.manifest import Manifest

LABELS = ["rowing", "dog barking", "rain, heavy", "crowd"]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest.build(
        ["a.mp4", "sub/b.mp4", "c.avi", "d.mp4"],
        [[0, 2], [1], [], [3, 0]],
        LABELS,
        root=tmp_path,
        splits=["train", "train", "val", "test"],
        groups=["g1", "g1", "", "g2"],
        start_s=[0.5, float("nan"), 0.0, 1.0],
        end_s=[1.5, float("nan"), 2.25, float("nan")],
        weights=[1.0, 0.1, 2.0, 1.0],
        ignores=[[1], [], [0, 3], []],
        extra={"camera": ["1", "2", "1", "2"]},
    )


def write_video(
    path: Path,
    *,
    num_frames: int = 12,
    size: tuple[int, int] = (96, 64),
    fps: int = 12,
    seed: int = 0,
    sound: bool = False,
) -> Path:
    """Write an mp4 (H.264) of a moving textured square; frame n has the mean level 40 + 10 * n at its left edge."""
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 255, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", format="mp4") as file:
        video = file.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "veryfast", "threads": "1"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = file.add_stream("aac", rate=16000, layout="mono") if sound else None
        for n in range(num_frames):
            picture = texture.astype(np.uint8).copy()
            picture[:, : width // 4] = min(40 + 10 * n, 255)
            for packet in video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        file.mux(video.encode())
        if audio is not None:
            time_s = np.arange(int(16000 * num_frames / fps)) / 16000
            wave = (0.4 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = 16000
            file.mux(audio.encode(frame))
            file.mux(audio.encode())
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return write_video
