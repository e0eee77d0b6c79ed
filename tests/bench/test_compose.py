"""The composed set keeps sources apart, lays the sounds it says, and its table counts what it says."""

import csv

import av
import numpy as np
import pytest

from reeltag.bench.compose import compose, find_sounds, repeated
from reeltag.bench.modalities import by_group, fused
from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError
from reeltag.media import open_video
from reeltag.media.encode import write_video
from reeltag.store.scores import Scores

RATE_HZ = 16_000
TONES = {"001 - Dog bark": 500, "002 - Rain": 2000}  # folds are told apart by an octave


def tone(frequency_hz, seconds=0.5):
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(RATE_HZ * seconds)) / RATE_HZ)).astype(np.float32)


def write_ogg(path, wave):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE_HZ, layout="mono", format="s16")
        samples = (wave * 32767).astype(np.int16)
        for start in range(0, len(samples), 1000):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1000], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    (root / "videos").mkdir()
    rows = []
    for number in range(10):
        frames = np.full((8, 32, 32, 3), 20 * number, np.uint8)
        write_video(root / "videos" / f"{number}.mp4", frames, 8)
        rows.append([f"{number}.mp4", "train" if number < 5 else "val", number % 2, 1 - number % 2])
    with (root / "videos" / "multilabel.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split", "odd", "even"], *rows])
    for folder, frequency_hz in TONES.items():
        (root / "sounds" / folder).mkdir(parents=True)
        for fold, octave in ((1, 1), (5, 2)):
            write_ogg(root / "sounds" / folder / f"{fold}-100-A.ogg", tone(frequency_hz * octave))
    return root


def loudest_hz(video):
    heard = video.audio(RATE_HZ).numpy()
    return np.argmax(np.abs(np.fft.rfft(heard))) * RATE_HZ / len(heard)


def test_three_fifths_get_the_sound_of_their_label_from_a_fold_of_their_own(sources, tmp_path):
    manifest = Manifest.read(compose(sources / "videos", sources / "sounds", tmp_path))
    assert manifest.label_names == ("odd", "even", "sound_dog_bark", "sound_rain")
    mute = silent = 0
    for row, (labels, split) in enumerate(zip(manifest.labels, manifest.splits, strict=True)):
        assert {0, 1} & set(labels) == {1 - row % 2}  # the video's own label stays
        with open_video(manifest.video_path(row)) as video:
            assert abs(int(video.frames_at([3]).float().mean()) - 20 * row) < 4
            sounds = [label for label in labels if label >= 2]
            if sounds:
                expected = (500, 2000)[sounds[0] - 2] * (2 if split == "val" else 1)
                assert loudest_hz(video) == pytest.approx(expected, rel=0.02)
            elif video.has_audio:
                silent += 1
                assert float(video.audio(RATE_HZ).abs().max()) == 0
            else:
                mute += 1
    carried = [[sum(label >= 2 for label in labels) for labels in manifest.labels[part]] for part in
               (slice(0, 5), slice(5, 10))]  # fmt: skip
    assert [sum(part) for part in carried] == [3, 3]
    assert (mute, silent) == (2, 2)
    before = (tmp_path / "videos" / "0000.mp4").stat().st_mtime_ns
    compose(sources / "videos", sources / "sounds", tmp_path)
    assert (tmp_path / "videos" / "0000.mp4").stat().st_mtime_ns == before  # what is there is not written again


def test_a_folder_without_sounds_is_named(sources):
    with pytest.raises(ManifestError, match="give ESC-10's folder"):
        find_sounds(sources / "videos")


def test_a_sound_is_repeated_to_the_sample():
    assert repeated(np.arange(3, dtype=np.float32), 7 / RATE_HZ).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_fusion_of_pictures_and_sound_counts_what_a_video_has():
    targets = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.uint8)
    facts = {"video_ids": ["a", "b", "c", "d"], "label_names": ["seen", "heard"], "targets": targets, "split": "val"}
    seen = np.array([[0.9, 0.5], [0.1, 0.5], [0.2, 0.5], [0.8, 0.5]], np.float32)
    heard = np.array([[0.5, 0.1], [0.5, 0.5], [0.5, 0.2], [0.5, 0.9]], np.float32)
    rgb = Scores(values=seen, kind="probability", weights_hash="1" * 64, **facts)
    covered = np.array([True, False, True, True])
    audio = Scores(values=heard, kind="probability", weights_hash="2" * 64, covered=covered, **facts)
    both = fused({"rgb": rgb, "audio": audio}, ("rgb", "audio"))
    logits = np.log(both.values / (1 - both.values))
    strong, weak = np.log(0.9 / 0.1), np.log(0.8 / 0.2)
    # Pictures say on average 0 of what is seen, sound always the same, so it adds nothing: with it or without.
    np.testing.assert_allclose(logits[:, 0] - logits[1, 0], [2 * strong, 0, strong - weak, strong + weak], atol=1e-4)
    center = -weak / 3  # of what sound says of the three that have some; the second adds nothing to it
    np.testing.assert_allclose(
        logits[:, 1] - logits[1, 1], np.array([-strong, center, -weak, strong]) - center, atol=1e-4
    )
    np.testing.assert_allclose(both.values.mean(0), [0.5, 0.5], atol=1e-5)  # the shares of both labels
    found = by_group(both, {"pictures": ["seen"], "sounds": ["heard"]})
    assert found == {"all": 1.0, "pictures": 1.0, "sounds": 1.0}
