"""Small media files whose frames show their own numbers, written by PyAV."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

CELLS = 10
CORNERS = ((224, 16, 16), (16, 224, 16), (16, 16, 224), (224, 224, 16))  # red, green / blue, yellow


def draw_number(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """(H, W, 3): ten black or white cells, the highest bit first, between four coloured corners."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    half, quarter, cell = width // 2, height // 4, width // CELLS
    picture[: height // 2, :half], picture[: height // 2, half:] = CORNERS[0], CORNERS[1]
    picture[height // 2 :, :half], picture[height // 2 :, half:] = CORNERS[2], CORNERS[3]
    for place in range(CELLS):
        bit = number >> (CELLS - 1 - place) & 1
        picture[quarter:-quarter, place * cell : (place + 1) * cell] = 235 if bit else 16
    return picture


@pytest.fixture(scope="session")
def write_numbered() -> Callable[..., Path]:
    """A function that writes frames with numbers (and a sound track of given samples) to a file."""

    def write(
        path: Path,
        numbers: Sequence[int] = range(30),
        *,
        codec: str = "libx264",
        fps: int = 10,
        gop: int = 10,
        size: tuple[int, int] = (160, 120),
        pixels: str = "yuv420p",
        times_ms: Sequence[int] | None = None,
        start_s: float = 0,
        rotation: int = 0,
        options: dict[str, str] | None = None,
        mux: dict[str, str] | None = None,
        sound: np.ndarray | None = None,
        sound_hz: int = 16000,
        sound_start_s: float = 0,
        sound_codec: str = "pcm_s16le",
        prepare: Callable[[Any], None] | None = None,
    ) -> Path:
        with av.open(str(path), "w", options=mux or {}) as container:
            video = container.add_stream(codec, rate=fps, options={"g": str(gop), **(options or {})})
            video.width, video.height, video.pix_fmt = *size, pixels
            base = Fraction(1, 1000) if times_ms or start_s else Fraction(1, fps)
            video.time_base = base
            video.codec_context.time_base = base
            video.codec_context.thread_count = 1
            if rotation:
                video.set_display_rotation(rotation)
            if prepare:
                prepare(video)
            if sound is not None:
                layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
                track = container.add_stream(sound_codec, rate=sound_hz, layout=layout)
                track.time_base = Fraction(1, sound_hz)
            for i, number in enumerate(numbers):
                frame = av.VideoFrame.from_ndarray(draw_number(number, *size), format="rgb24")
                frame.time_base = base
                milliseconds = times_ms[i] if times_ms else i * 1000 // fps
                frame.pts = milliseconds + round(start_s * 1000) if times_ms or start_s else i
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if sound is not None:
                packed = np.ascontiguousarray((sound.T.reshape(1, -1) * 32767).round().astype(np.int16))
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
                frame.sample_rate, frame.time_base = sound_hz, Fraction(1, sound_hz)
                frame.pts = round((sound_start_s + start_s) * sound_hz)
                container.mux(track.encode(frame))
                container.mux(track.encode(None))
        return path

    return write


@pytest.fixture
def numbered(tmp_path: Path, write_numbered: Callable[..., Path]) -> Path:
    """30 frames at 10 fps with B-frames, a key frame every ten."""
    return write_numbered(tmp_path / "numbered.mp4", options={"bf": "3"})


@pytest.fixture(scope="session")
def numbered_frame() -> Callable[..., np.ndarray]:
    """The function that draws a number."""
    return draw_number
