"""Tests of encoding: what comes back, key frames, and the same bytes for the same input."""

from pathlib import Path

import av
import numpy as np
import pytest

from reeltag.media.encode import write_video

NUM_FRAMES, FPS, RATE_HZ = 20, 12, 16_000


def _frames() -> np.ndarray:
    """A bright square that moves two pixels a frame over a smooth ramp."""
    frames = np.empty((NUM_FRAMES, 48, 64, 3), np.uint8)
    frames[:] = np.linspace(40, 160, 64, dtype=np.uint8)[:, None]
    for t in range(NUM_FRAMES):
        frames[t, 16:32, 2 * t : 2 * t + 16] = (230, 60, 30)
    return frames


def _tone(duration_s: float = NUM_FRAMES / FPS) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(duration_s * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def test_pictures_times_and_sound_come_back(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    write_video(path, _frames(), FPS, audio=_tone(), rate_hz=RATE_HZ)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
        decoded = list(container.decode(video=0))
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(float)
    assert pictures.shape == (NUM_FRAMES, 48, 64, 3)
    assert np.abs(pictures - _frames()).mean() < 6  # of 255; colour is stored at half resolution and crf 26
    assert [frame.time for frame in decoded] == pytest.approx([t / FPS for t in range(NUM_FRAMES)], abs=1e-6)

    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.audio[0].rate == RATE_HZ
    middle = sound[8000:16_000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) * RATE_HZ / len(middle) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)  # AAC is lossy


def test_key_frames_fall_where_asked_and_nowhere_else(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", _frames(), FPS, keyframes=[7, 15])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        found = [t for t, frame in enumerate(container.decode(video=0)) if frame.key_frame]
        assert not container.streams.audio
    assert found == [0, 7, 15]


def test_a_hard_cut_makes_no_key_frame(tmp_path: Path):
    frames = _frames()
    frames[10:] = 255 - frames[10:]
    write_video(tmp_path / "clip.mp4", frames, FPS)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert [t for t, frame in enumerate(container.decode(video=0)) if frame.key_frame] == [0]


def test_every_frame_has_the_same_quality(tmp_path: Path):
    # On a still noisy picture a rate control that looks ahead gives the frames of a clip different errors.
    noise = np.random.default_rng(0).integers(60, 200, (48, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "clip.mp4", np.stack([noise] * 24), FPS, keyframes=range(0, 24, 6))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        errors = [np.abs(f.to_ndarray(format="rgb24").astype(float) - noise).mean() for f in container.decode(video=0)]
    assert max(errors) < 1.05 * min(errors)


def test_same_input_same_bytes_and_options_change_them(tmp_path: Path):
    names = ["first.mp4", "second.mp4", "coarse.mp4"]
    for name in names[:2]:
        write_video(tmp_path / name, _frames(), FPS, audio=_tone())
    write_video(tmp_path / names[2], _frames(), FPS, audio=_tone(), codec_options={"crf": "45"})
    first, second, coarse = ((tmp_path / name).read_bytes() for name in names)
    assert first == second
    assert len(coarse) < len(first)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (np.zeros((2, 48, 64, 3), np.float32), {}, "uint8"),
        (np.zeros((0, 48, 64, 3), np.uint8), {}, "T >= 1"),
        (np.zeros((2, 47, 64, 3), np.uint8), {}, "64x47"),
        (np.zeros((2, 48, 64, 3), np.uint8), {"fps": 0}, "fps must be positive, got 0"),
        (np.zeros((2, 48, 64, 3), np.uint8), {"keyframes": [2]}, r"\[0, 2\), got \[2\]"),
        (np.zeros((2, 48, 64, 3), np.uint8), {"audio": np.zeros((1, 9), np.float32)}, "mono"),
    ],
)
def test_what_cannot_be_encoded_is_refused_before_a_file_appears(tmp_path: Path, frames, options, message):
    fps = options.pop("fps", FPS)
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.mp4", frames, fps, **options)
    assert not list(tmp_path.iterdir())
