import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from reeltag.errors import MediaError
from reeltag.media import open_video, read_audio


def tone(seconds: float, rate_hz: int, hz: float = 440, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def level_at(samples: torch.Tensor, hz: float, rate_hz: int) -> float:
    """Amplitude of one frequency."""
    x = samples.double().numpy()
    phase = np.exp(-2j * np.pi * hz * np.arange(len(x)) / rate_hz)
    return float(2 * abs((x * phase).mean()))


@pytest.mark.parametrize(
    ("gains", "expected"),
    [((1,), 0.5), ((1, 1), 0.5), ((1, 0), 0.25), ((1, -1), 0.0), ((1, 0, 0, 0, 0, 0), 0.5 / 6), ((1,) * 6, 0.5)],
)
def test_the_down_mix_is_the_mean_of_the_channels(tmp_path: Path, write_numbered, gains, expected: float):
    sound = np.outer(gains, tone(3, 16000))
    with open_video(write_numbered(tmp_path / "sound.mkv", sound=sound)) as video:
        assert video.has_audio
        samples = video.audio(16000)
    assert samples.dtype == torch.float32
    assert samples.shape == (48000,)
    assert level_at(samples, 440, 16000) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(samples, sound.mean(0), atol=1e-4)  # 16-bit steps are 3e-5


@pytest.mark.parametrize(("source_hz", "rate_hz"), [(44100, 16000), (8000, 16000), (48000, 32000), (16000, 44100)])
def test_resampling_keeps_pitch_level_and_place(tmp_path: Path, write_numbered, source_hz: int, rate_hz: int):
    path = write_numbered(tmp_path / "sound.mkv", sound=tone(3, source_hz)[None], sound_hz=source_hz)
    with open_video(path) as video:
        samples = video.audio(rate_hz)
    assert samples.shape == (3 * rate_hz,)
    middle = slice(rate_hz // 10, -rate_hz // 10)  # the filter rings at the ends
    expected = tone(3, rate_hz)
    np.testing.assert_allclose(samples[middle], expected[middle], atol=5e-3)  # 16 bits and the filter's ripple


@pytest.mark.parametrize("start_s", [0, 5])
def test_late_sound_is_placed_behind_silence(tmp_path: Path, write_numbered, start_s: float):
    path = write_numbered(tmp_path / "late.mkv", sound=tone(2, 16000)[None], sound_start_s=1, start_s=start_s)
    with open_video(path) as video:
        samples = video.audio(16000).numpy()
    assert len(samples) == 48000
    shift = int(np.flatnonzero(abs(samples) > 1e-3)[0])
    assert abs(shift - 16000) <= 17  # Matroska rounds times to milliseconds
    np.testing.assert_allclose(
        samples[shift : shift + 20000], tone(2, 16000)[1:20001], atol=0.1
    )  # up to one sample off
    assert level_at(torch.tensor(samples[17000:47000]), 440, 16000) == pytest.approx(0.5, abs=2e-3)


def test_sound_is_cut_or_filled_to_the_pictures(tmp_path: Path, write_numbered):
    with open_video(write_numbered(tmp_path / "short.mkv", sound=tone(1, 16000)[None])) as video:
        samples = video.audio(16000)
        assert samples.shape == (48000,)
        assert level_at(samples[:16000], 440, 16000) == pytest.approx(0.5, abs=1e-3)
        assert samples[16000:].abs().max() == 0
    with open_video(write_numbered(tmp_path / "long.mkv", sound=tone(6, 16000)[None])) as video:
        samples = video.audio(16000)
        assert samples.shape == (48000,)
        np.testing.assert_allclose(samples, tone(3, 16000), atol=1e-4)


def test_a_compressed_track_starts_where_it_should(tmp_path: Path, write_numbered):
    click = np.zeros((1, 48000))
    click[0, 16000:16400] = tone(0.025, 16000, level=0.8)
    with open_video(write_numbered(tmp_path / "click.mp4", sound=click, sound_codec="aac")) as video:
        samples = video.audio(16000).numpy()
    # AAC begins with 1,024 samples of priming; the click must not be late by them.
    centre = (samples**2 * np.arange(48000)).sum() / (samples**2).sum()
    assert centre == pytest.approx(16200, abs=32)


def write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples.T * 32767).round().astype("<i2").tobytes())
    return path


def test_sound_only_files_are_read_as_sound_and_refused_as_video(tmp_path: Path):
    sound = np.stack([tone(1, 16000), np.zeros(16000)])
    path = write_wav(tmp_path / "tone.wav", sound, 16000)
    np.testing.assert_allclose(read_audio(path, 16000), sound.mean(0), atol=1e-4)
    assert read_audio(path.read_bytes(), 8000).shape == (8000,)
    with pytest.raises(MediaError) as caught:
        open_video(path)
    assert caught.value.reason == "not_video"


def test_read_audio_of_a_video_equals_the_videos_own(tmp_path: Path, write_numbered):
    path = write_numbered(tmp_path / "sound.mkv", sound=tone(2, 16000)[None], sound_start_s=0.5)
    with open_video(path) as video:
        assert torch.equal(read_audio(path, 8000), video.audio(8000))


def test_missing_sound_is_an_error_and_not_silence(numbered: Path):
    with open_video(numbered) as video:
        assert not video.has_audio
        with pytest.raises(MediaError, match="no sound track") as caught:
            video.audio()
        assert caught.value.reason == "unsupported"
        with pytest.raises(ValueError, match="rate_hz must be above 0, got 0"):
            video.audio(0)


def test_full_scale_is_not_exceeded(tmp_path: Path, write_numbered):
    square = np.sign(tone(3, 16000, hz=100))[None]
    with open_video(write_numbered(tmp_path / "loud.mkv", sound=square)) as video:
        samples = video.audio(44100)  # the filter overshoots at the edges
    assert samples.abs().max() == 1
