"""Tags over time: windows, one pass, segments; for models of pictures and of sound, and for ensembles."""

import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

import reeltag.inference.timeline as home
from reeltag.data.sources import FileSource
from reeltag.errors import MediaError, ReeltagError
from reeltag.inference.ensemble import Ensemble
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.explain import explain
from reeltag.inference.predict import Tagger
from reeltag.inference.segments import SegmentRule, find_segments
from reeltag.inference.timeline import natural_window_s, timeline
from reeltag.inference.windows import Windows, frames_within
from reeltag.media import Video, open_media, open_video
from reeltag.media.decode import TrackDecoder
from reeltag.models import MODELS


def sigmoid(logit):
    return 1 / (1 + np.exp(-np.asarray(logit, dtype=np.float64)))


STEPS = [30] * 32 + [220] * 32 + [60] * 16  # 4 s dark, 4 s bright, 2 s dark at 8 frames a second


def test_windows_cover_the_file_and_the_last_ends_with_it():
    assert Windows.over(10, 4, 2).times_s.tolist() == [[0, 4], [2, 6], [4, 8], [6, 10]]
    assert Windows.over(9, 4).times_s.tolist() == [[0, 4], [2, 6], [4, 8], [5, 9]]
    assert Windows.over(3, 4).times_s.tolist() == [[0, 3]]
    assert Windows.over(4, 4, 4).times_s.tolist() == [[0, 4]]
    many = Windows.over(0.1 * 300, 0.3, 0.1).times_s  # no window is lost or doubled by rounding
    assert len(many) == 298
    np.testing.assert_allclose(many[:, 0], np.arange(298) * 0.1, atol=1e-9)


@pytest.mark.parametrize(("window_s", "hop_s"), [(0, None), (-1, None), (float("nan"), None), (2, 0), (2, -1), (2, 3)])
def test_a_window_or_hop_that_leaves_gaps_is_refused(window_s, hop_s):
    with pytest.raises(ReeltagError, match=r"--(window|hop)-s"):
        Windows.over(10, window_s, hop_s)


def test_moments_are_the_mean_of_the_windows_that_cover_them():
    windows = Windows.over(8, 4, 2)
    scores = np.array([[0.2, 0.1], [0.6, np.nan], [1.0, np.nan]])
    cells, means = windows.moments(scores)
    assert cells.tolist() == [[0, 2], [2, 4], [4, 6], [6, 8]]
    np.testing.assert_allclose(means, [[0.2, 0.1], [0.4, 0.1], [0.8, np.nan], [1.0, np.nan]])


def test_segments_by_hysteresis_gaps_and_length():
    cells = np.stack([np.arange(9.0), np.arange(9.0) + 1], 1)
    scores = np.array([[0.1, 0.45, 0.6, 0.45, 0.3, 0.9, np.nan, 0.45, 0.2]]).T

    def spans(**rule):
        return [(s.start_s, s.end_s) for s in find_segments(scores, cells, ["a"], [0.5], SegmentRule(**rule))]

    assert spans(off=1.0) == [(2, 3), (5, 6)]
    assert spans(off=0.8) == [(1, 4), (5, 6)]  # 0.45 holds a segment, and begins none by itself
    assert spans(off=0.8, gap_s=1) == [(1, 6)]
    assert spans(off=0.8, min_s=2) == [(1, 4)]
    (one, _) = find_segments(scores, cells, ["a"], [0.5], SegmentRule(off=0.8))
    assert (one.score, one.best) == (pytest.approx(0.5), 0.6)
    with pytest.raises(ReeltagError, match="share of the threshold"):
        SegmentRule(off=1.5)


def test_scores_of_a_model_of_brightness_are_those_worked_out_by_hand(brightness, write_levels, tmp_path):
    path = write_levels(tmp_path / "steps.mp4", STEPS)
    with open_video(path) as video:
        levels = video.frames_at(range(video.num_frames)).float().mean((1, 2, 3)).numpy() / 255
    found = timeline(brightness, path, window_s=2, hop_s=1, rule=SegmentRule(off=1))
    assert found.windows.times_s.tolist() == [[k, k + 2] for k in range(9)]
    # 16 frames a window in four segments: the frames 2, 6, 10 and 14 of each.
    expected = [sigmoid(8 * (np.mean([levels[8 * k + at] for at in (2, 6, 10, 14)]) - 0.5)) for k in range(9)]
    np.testing.assert_allclose(found.scores[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(found.scores[:, 1], expected, atol=1e-6)  # every frame is of one grey
    assert [(s.label, s.start_s, s.end_s) for s in found.segments] == [("bright", 4, 8), ("bright_corner", 4, 8)]
    assert found.tags == brightness(path)


def test_windows_are_tagged_as_files_of_their_own_would_be(mini_run, mini_manifest):
    tagger = Tagger.from_pretrained(mini_run, device="cpu")
    path = sorted(mini_manifest.parent.glob("videos/*.mp4"))[0]
    found = timeline(tagger, path, window_s=1.0, hop_s=0.25)
    assert len(found.scores) == 9
    for (start, end), scores in zip(found.windows.times_s.tolist(), found.scores, strict=True):
        with FileSource("x", open_media(path), start, end) as source:
            expected = tagger.scores_of(tagger.look(source)[0])[0]
        # Batches of eight and of one sum in another order, in bf16 where the hardware has it.
        np.testing.assert_allclose(scores, expected, atol=5e-3)
    assert found.tags == tagger(path)
    assert np.ptp(found.scores, 0).max() > 1e-3


def test_a_file_is_opened_once_and_each_frame_decoded_once(brightness, write_levels, tmp_path, monkeypatch):
    path = write_levels(tmp_path / "steps.mp4", STEPS)
    opened, decoded, given = [], [], []

    def counted_open(source):
        opened.append(source)
        return open_media(source)

    shown, walk = TrackDecoder.shown, Video.walk

    def counted_shown(self, deadline):
        for row, frame, good in shown(self, deadline):
            decoded.append(row)
            yield row, frame, good

    def counted_walk(self, indices):
        for number, frame in walk(self, indices):
            given.append(number)
            yield number, frame

    monkeypatch.setattr(home, "open_media", counted_open)
    monkeypatch.setattr(TrackDecoder, "shown", counted_shown)
    monkeypatch.setattr(TrackDecoder, "sparse", None)
    monkeypatch.setattr(Video, "walk", counted_walk)
    timeline(brightness, path, window_s=2, hop_s=0.5)
    assert opened == [path]
    assert len(set(decoded)) == len(decoded)
    assert given == sorted(set(given))
    assert len(decoded) <= 80
    assert len(given) < len(decoded)


@pytest.mark.parametrize("seconds", [20, 80])
def test_frames_held_at_a_time_do_not_grow_with_the_file(brightness, write_levels, tmp_path, monkeypatch, seconds):
    path = write_levels(tmp_path / "long.mp4", np.tile(STEPS, seconds // 10))
    alive, most = set(), 0
    walk = Video.walk

    def watched(self, indices):
        nonlocal most
        for number, frame in walk(self, indices):
            pixels = frame.numpy().copy()  # lives as long as any tensor that shows it
            alive.add(number)
            weakref.finalize(pixels, alive.discard, number)
            most = max(most, len(alive))
            yield number, torch.from_numpy(pixels)
            del pixels

    monkeypatch.setattr(Video, "walk", watched)
    monkeypatch.setattr(home, "_common_shrink", lambda members: lambda frames: frames)  # else copies are kept
    found = timeline(brightness, path, window_s=2, hop_s=1)
    assert len(found.scores) == seconds - 1
    # Eight windows wait to be scored, four frames each, a few are gathered, four are those of the plain tags.
    assert 8 <= most <= 48


def test_a_variable_rate_is_cut_by_the_clock_of_the_file(brightness, tmp_path):
    times_ms = [*range(500, 2500, 500), *range(2500, 6500, 125)]  # 2 a second, then 8 a second; the first at 0.5 s
    levels = [20] * 4 + [230] * 32
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4", "bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for at, level in zip(times_ms, levels, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = timeline(brightness, tmp_path / "v.mkv", window_s=1, hop_s=1)
    bright = found.scores[:, 0] > 0.5
    assert found.windows.times_s[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert bright.tolist() == [False, False, True, True, True, True]  # time 0 is the first frame


def test_frames_within_a_window_of_a_slow_video():
    times = np.array([0.0, 5.0, 5.5, 9.0])
    assert frames_within(times, 0, 5) == (0, 1)
    assert frames_within(times, 5, 6) == (1, 3)
    assert frames_within(times, 6, 8) == (2, 3)  # what has been on the screen since 5.5 s
    assert frames_within(times, 9.5, 12) == (3, 4)


def tone(seconds, level):
    return (level * np.sign(np.sin(2 * np.pi * 200 * np.arange(int(seconds * 8000)) / 8000))).astype(np.float32)


def test_sound_alone_silence_and_files_shorter_than_a_window(loudness, tmp_path):
    with av.open(str(tmp_path / "s.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        wave = np.concatenate([tone(4, 0.9), np.zeros(32000, np.float32), tone(2, 0.2)])
        samples = np.ascontiguousarray((wave * 32767).astype(np.int16)[None])
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = timeline(loudness, tmp_path / "s.wav")  # windows of 2 s, what a clip of this model spans
    assert found.windows.times_s[:, 0].tolist() == list(range(9))
    levels = [0.9, 0.9, 0.9, 0.45, None, None, None, 0.1, 0.2]
    for scores, level in zip(found.scores, levels, strict=True):
        if level is None:
            assert np.isnan(scores).all()
        else:
            assert scores[0] == pytest.approx(float(sigmoid(8 * (level - 0.5))), abs=1e-3)
    assert [(s.label, s.start_s, s.end_s) for s in found.segments] == [("bright", 0, 5), ("bright_corner", 0, 5)]
    # The half-loud window alone covers 4 to 5 s: its 0.40 holds the segment, and would not begin one.
    whole = timeline(loudness, tmp_path / "s.wav", window_s=60)
    assert whole.windows.times_s.tolist() == [[0, 10]]
    assert whole.scores[0, 0] == pytest.approx(loudness(tmp_path / "s.wav").scores[0], abs=1e-6)


def test_members_of_an_ensemble_see_the_same_windows(brightness, loudness, write_levels, tmp_path):
    sound = np.concatenate([tone(6, 0.8), np.zeros(4 * 8000, np.float32)])
    path = write_levels(tmp_path / "both.mp4", STEPS, audio=sound)
    ensemble = Ensemble(of="logits", members=[{"name": "rgb", "weight": 3.0}, {"name": "audio"}])
    tagger = EnsembleTagger(ensemble, [brightness, loudness])
    found = timeline(tagger, path, hop_s=1)
    rgb, audio = (timeline(t, path, window_s=3, hop_s=1).scores[:, 0] for t in (brightness, loudness))
    assert natural_window_s(tagger, 8) == 3  # the longer of 3 s and 2 s
    logits = [np.log(values / (1 - values)) for values in (rgb.astype(float), audio.astype(float))]
    silent = np.isnan(logits[1])
    assert silent.any()
    expected = np.where(silent, logits[0], (3 * logits[0] + np.nan_to_num(logits[1])) / 4)
    np.testing.assert_allclose(found.scores[:, 0], sigmoid(expected), atol=1e-5)
    assert found.tags == tagger(path)


def test_a_cut_file_gives_what_can_be_read_and_is_marked(brightness, write_levels, tmp_path):
    path = write_levels(tmp_path / "whole.mkv", STEPS)
    whole = timeline(brightness, path, window_s=2)
    (tmp_path / "cut.mkv").write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    found = timeline(brightness, tmp_path / "cut.mkv", window_s=2)
    assert found.tags.damaged
    assert 2 < found.tags.duration_s < 10
    full = found.windows.times_s[:, 1] < found.tags.duration_s  # but for the last one
    assert full.sum() >= 1
    np.testing.assert_allclose(found.scores[full, 0], whole.scores[: full.sum(), 0], atol=1e-6)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        timeline(brightness, tmp_path / "no.mp4")


def test_natural_windows(brightness):
    data = brightness.loaded.trained.recipe.data
    assert natural_window_s(brightness, 8) == 3.0  # frames spread over any length span none of their own
    dense = data.model_copy(update={"sampling": "dense", "stride": 6})
    recipe = brightness.loaded.trained.recipe.model_copy(update={"data": dense})
    object.__setattr__(brightness.loaded.trained, "recipe", recipe)
    assert natural_window_s(brightness, 8) == 3.0  # 4 x 6 frames at 8 a second
    assert natural_window_s(brightness, 24) == 1.0


def test_walk_gives_the_frames_of_frames_at(write_levels, tmp_path):
    path = write_levels(tmp_path / "steps.mp4", range(10, 90))
    wanted = [3, 17, 40, 41, 79]
    with open_video(path) as video:
        walked = list(video.walk(reversed(wanted)))
        assert [number for number, _ in walked] == wanted
        assert torch.equal(torch.stack([frame for _, frame in walked]), video.frames_at(wanted))
        with pytest.raises(ValueError, match="frame 80 does not exist"):
            list(video.walk([80]))


def test_a_joint_model_is_given_all_modalities_of_each_window(tagger_of, mini_manifest):
    pytest.importorskip("cv2")
    torch.manual_seed(0)
    data = {"num_frames": 4, "short_side_px": 40, "crop_px": 32, "flow": {"method": "dis"}, "audio": {"seconds": 1.0}}
    tagger = tagger_of(MODELS.build("fusion_gated", num_labels=2), data)
    paths = sorted(mini_manifest.parent.glob("videos/*.mp4"))
    path = next(path for path in paths if not tagger(path).missing)
    found = timeline(tagger, path, window_s=1.5)
    assert found.tags == tagger(path)
    for (start, end), scores in zip(found.windows.times_s.tolist(), found.scores, strict=True):
        with FileSource("x", open_media(path), start, end) as source:
            expected = tagger.scores_of(tagger.look(source)[0])[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    with FileSource("x", open_media(path)) as source:
        batch, used = tagger.look(source)
    (one,) = explain(tagger, path, labels=["bright"], num_parts=2).explanations
    assert list(one.modalities) == used == ["rgb", "flow", "audio"]
    for column, name in enumerate(used):
        left = batch["present"].clone()
        left[:, column] = False
        alone = float(tagger.scores_of({**batch, "present": left})[0, 0])
        assert one.modalities[name] == pytest.approx(one.score - alone, abs=1e-6)
