"""A video with another sound track keeps its pictures to the pixel."""

import av
import numpy as np
import pytest
import torch

from reeltag.media import open_video
from reeltag.media.encode import write_sound, write_video
from reeltag.media.remux import lay_sound

RATE_HZ = 16_000


def tone(frequency_hz, seconds):
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(RATE_HZ * seconds)) / RATE_HZ)).astype(np.float32)


def sound_alone(path):
    with av.open(str(path), "w") as container:
        write_sound(container, container.add_stream("aac", rate=RATE_HZ, layout="mono"), tone(440, 0.5), RATE_HZ)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("remux") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), np.uint8)
    write_video(path, frames, 12, audio=tone(440, 1.0), keyframes=(0, 5))
    return path


def test_pictures_are_copied_and_sound_replaced(video, tmp_path):
    lay_sound(video, tmp_path / "new.mp4", tone(1000, 1.0), RATE_HZ)
    with open_video(video) as before, open_video(tmp_path / "new.mp4") as after:
        assert torch.equal(before.frames_at(range(12)), after.frames_at(range(12)))
        assert after.times_s == pytest.approx(before.times_s, abs=1e-4)
        heard = after.audio(RATE_HZ)
    spectrum = np.abs(np.fft.rfft(heard.numpy()[2000:14000]))
    assert np.argmax(spectrum) * RATE_HZ / 12000 == pytest.approx(1000, abs=2)
    assert float(heard[2000:14000].square().mean().sqrt()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_sound_can_be_taken_away(video, tmp_path):
    lay_sound(video, tmp_path / "mute.mp4", None)
    with open_video(tmp_path / "mute.mp4") as opened:
        assert not opened.has_audio
        assert opened.num_frames == 12


def test_a_wave_that_is_not_mono_is_refused(video, tmp_path):
    with pytest.raises(ValueError, match="mono"):
        lay_sound(video, tmp_path / "x.mp4", np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="no pictures"):
        lay_sound(sound_alone(tmp_path / "sound.mp4"), tmp_path / "y.mp4", None)
