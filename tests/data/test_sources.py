"""Frames, flow and sound of one clip: known tones at their places, whatever the track is like."""

import math
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.data.pack import pack
from reeltag.data.shards import PackedVideos
from reeltag.data.sources import FileSource, PackedSource
from reeltag.errors import MediaError
from reeltag.media import open_media
from reeltag.media.flow import compute_flow, quantise
from reeltag.sections import FlowSection

RATE_HZ = 16000
DIS = FlowSection(method="dis")


def tone(seconds, rate_hz=RATE_HZ, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def write(path: Path, sound=None, *, rate_hz=RATE_HZ, layout="mono", codec="pcm_s16le", frames=20, fps=10) -> Path:
    """Two seconds of a bright square that moves by 4 px a frame; `sound` is (channels, N)."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "veryfast", "threads": "1"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        track = None if sound is None else file.add_stream(codec, rate=rate_hz, layout=layout)
        rng = np.random.default_rng(0)
        texture = rng.integers(60, 200, (16, 60, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        for n in range(frames):
            picture = np.ascontiguousarray(texture[:, 4 * n : 4 * n + 96])  # moves to the left
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode(None))
        if track is not None:
            packed = np.ascontiguousarray((np.atleast_2d(sound).T.reshape(1, -1) * 32767).round().astype(np.int16))
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, 0
            resampler = av.AudioResampler(format=track.codec_context.format.name, layout=layout, rate=rate_hz)
            for part in resampler.resample(frame):
                file.mux(track.encode(part))
            file.mux(track.encode(None))
    return path


def level_at(samples, hz, rate_hz=RATE_HZ):
    phase = np.exp(-2j * np.pi * hz * np.arange(len(samples)) / rate_hz)
    return float(2 * abs((samples.double().numpy() * phase).mean()))


def opened(path, **times):
    return FileSource(str(path), open_media(path), **times)


def test_a_clip_without_a_track_has_none_and_one_with_silence_has_zeros(tmp_path):
    with opened(write(tmp_path / "mute.mkv")) as source:
        assert not source.has_audio
        assert source.waveform(RATE_HZ) is None
        assert source.num_frames == 20
    with opened(write(tmp_path / "silent.mkv", np.zeros(32000))) as source:
        assert source.has_audio
        assert not source.waveform(RATE_HZ).any()


def test_ten_milliseconds_of_sound_stand_at_the_start(tmp_path):
    with opened(write(tmp_path / "short.mkv", tone(0.01, hz=1000))) as source:
        samples = source.waveform(RATE_HZ)
    assert len(samples) == 32000
    assert samples[160:].abs().max() == 0
    assert level_at(samples[:160], 1000) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_sound_shorter_or_longer_than_the_pictures(tmp_path, seconds):
    with opened(write(tmp_path / "sound.mkv", tone(seconds))) as source:
        samples = source.waveform(RATE_HZ)
    assert len(samples) == 32000  # of two seconds of pictures
    end = min(32000, round(seconds * RATE_HZ))
    np.testing.assert_allclose(samples[:end], tone(seconds)[:end], atol=1e-4)
    assert not samples[end:].any()


def test_mono_at_8_khz_and_5_1_at_96_khz(tmp_path):
    slow = write(tmp_path / "slow.mkv", tone(2, 8000), rate_hz=8000)
    with opened(slow) as source:
        samples = source.waveform(RATE_HZ)
    assert len(samples) == 32000
    assert level_at(samples[1600:-1600], 440) == pytest.approx(0.5, abs=5e-3)
    six = np.zeros((6, 192000), dtype=np.float32)
    six[1], six[4] = tone(2, 96000, 500), tone(2, 96000, 3000, 0.25)
    around = write(tmp_path / "around.mkv", six, rate_hz=96000, layout="5.1", codec="flac")
    with opened(around) as source:
        samples = source.waveform(RATE_HZ)
    assert len(samples) == 32000
    assert level_at(samples[1600:-1600], 500) == pytest.approx(0.5 / 6, abs=1e-3)  # the mean of all channels
    assert level_at(samples[1600:-1600], 3000) == pytest.approx(0.25 / 6, abs=1e-3)


def test_start_and_end_cut_pictures_and_sound_alike(tmp_path):
    sound = np.concatenate([tone(1), tone(1, hz=880)])
    path = write(tmp_path / "two.mkv", sound)
    manifest = Manifest.build(["two.mkv"], [[0]], ["a"], root=tmp_path, start_s=[0.5], end_s=[1.5])
    manifest.write(tmp_path / "m.csv")
    with open_footage(tmp_path / "m.csv").open(0) as source, opened(path) as whole:
        assert source.num_frames == 10
        assert torch.equal(source.frames_at([0, 9]), whole.frames_at([5, 14]))
        samples = source.waveform(RATE_HZ)
        assert torch.equal(samples, whole.waveform(RATE_HZ)[8000:24000])
    assert level_at(samples[:8000], 440) == pytest.approx(0.5, abs=1e-3)
    assert level_at(samples[8000:], 880) == pytest.approx(0.5, abs=1e-3)
    pack(manifest, tmp_path / "packed", store="raw", workers=0)
    packed = open_footage(tmp_path / "packed")
    with packed.open(0) as source:
        assert source.duration_s == pytest.approx(1.0)
        np.testing.assert_allclose(source.waveform(RATE_HZ), samples, atol=2e-5)  # 16 bits
        assert len(source.waveform(8000)) == 8000
        assert level_at(source.waveform(8000)[400:3600], 440, 8000) == pytest.approx(0.5, abs=5e-3)


def write_wav(path: Path, samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def test_a_sound_file_has_sound_and_no_pictures_also_when_packed(tmp_path):
    write_wav(tmp_path / "b.wav", tone(0.5, hz=700))
    manifest = Manifest.build(["b.wav", "gone.wav"], [[0], [0]], ["a"], root=tmp_path)
    with opened(tmp_path / "b.wav") as source:
        assert (source.num_frames, source.has_audio) == (0, True)
        assert source.duration_s == pytest.approx(0.5)
        with pytest.raises(MediaError, match="not_video"):
            source.frames_at([0])
        own = source.waveform(RATE_HZ)
    np.testing.assert_allclose(own, tone(0.5, hz=700), atol=1e-4)
    report = pack(manifest, tmp_path / "packed", workers=0)
    assert (report.clips, [line["reason"] for line in report.bad]) == (1, ["not_found"])
    videos = PackedVideos(tmp_path / "packed")
    videos.verify()
    with PackedSource(videos, 0) as source:
        assert (source.num_frames, source.has_audio, source.duration_s) == (0, True, 0.5)
        np.testing.assert_allclose(source.waveform(RATE_HZ), own, atol=2e-5)
        with pytest.raises(MediaError, match="not_video"):
            source.frames_at([0])


def test_sound_alone_without_sound_is_refused_when_packed(tmp_path):
    from reeltag.errors import TooManyBadFiles

    write_wav(tmp_path / "b.wav", tone(0.5))
    manifest = Manifest.build(["b.wav"], [[0]], ["a"], root=tmp_path)
    with pytest.raises(TooManyBadFiles, match="not_video"):
        pack(manifest, tmp_path / "packed", audio_rate_hz=None, workers=0)


def test_flow_is_made_of_the_frames_it_lies_between(tmp_path):
    with opened(write(tmp_path / "moving.mkv")) as source:
        flow = source.flow_at([2, 19, 2], DIS)
        frames = source.frames_at(range(20))
        expected = quantise(compute_flow(frames, [(2, 3), (18, 19), (2, 3)], "dis"))
    assert torch.equal(flow, expected)
    x = flow[:, 0, 8:-8, 24:-24].float() - 128
    assert float(x.median()) == pytest.approx(-4 / 20 * 127, abs=3)  # 4 px to the left, 20 px are 127 steps
    assert abs(float(flow[:, 1].float().median()) - 128) <= 2


def test_stacks_steps_and_rates_of_flow(tmp_path):
    with opened(write(tmp_path / "moving.mkv")) as source:
        one = {i: source.flow_at([i], DIS)[0] for i in range(20)}
        stacked = source.flow_at([3, 18], FlowSection(method="dis", stack=3))
        assert stacked.shape == (2, 6, 64, 96)
        assert torch.equal(stacked[0], torch.cat([one[3], one[4], one[5]]))
        assert torch.equal(stacked[1], torch.cat([one[18]] * 3))  # the last pair that exists
        frames = source.frames_at(range(20))
        two = source.flow_at([4], FlowSection(method="dis", step=2))
        assert torch.equal(two, quantise(compute_flow(frames, [(4, 6)], "dis")))
        at_5_fps = source.flow_at([4], FlowSection(method="dis", fps=5.0, stack=2))  # of 10 frames a second
        assert torch.equal(at_5_fps[0], quantise(compute_flow(frames, [(4, 6), (6, 8)], "dis")).flatten(0, 1))
        smaller = source.flow_at([4], FlowSection(method="dis", compute_px=32))
        assert smaller.shape == (1, 2, 64, 96)  # at the size of the frames, in their pixels
        assert float(smaller[0, 0, 8:-8, 24:-24].float().median()) - 128 == pytest.approx(-25.4, abs=4)


def test_a_single_frame_has_no_flow(tmp_path):
    with opened(write(tmp_path / "still.mkv", frames=1)) as source:
        assert not source.has_flow
        assert source.num_frames == 1


def test_kept_frames_are_those_that_would_be_read(tmp_path):
    path = write(tmp_path / "moving.mkv")
    with opened(path) as source, opened(path) as other:
        source.keep([7, 2], DIS)
        source._read = None  # nothing is read again
        assert torch.equal(source.frames_at([7, 2, 7]), other.frames_at([7, 2, 7]))
        assert torch.equal(source.flow_at([2, 7], DIS), other.flow_at([2, 7], DIS))


def test_open_ends():
    from reeltag.data.sources import span

    assert span(math.nan, math.nan, 10, 5.0) == (0, 10)
    assert span(1.0, math.nan, 10, 5.0) == (5, 10)
    assert span(9.0, 9.5, 10, 5.0) == (9, 10)  # behind the end: the last frame
