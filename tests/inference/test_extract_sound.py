"""Features of sound: windows at known times, the network's own vectors, and tags that rest on them."""

import json
import math

import numpy as np
import pytest
import torch

import reeltag
from reeltag.data.features import FeatureStore
from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.errors import MediaError, RecipeError
from reeltag.inference.evaluate import evaluate
from reeltag.inference.extract import extract
from reeltag.inference.extract_views import Amount
from reeltag.inference.extractor import build_extractor, find_extractor
from reeltag.inference.load import load_trained
from reeltag.inference.sound_extractor import SoundWindows
from reeltag.sections import AudioSection

SOUND = """
data: {audio: {seconds: 1.0}}
model: {name: MODEL}
train: {epochs: 0.25, batch_size: 4, optimizer: adamw, lr: 0.001, clip_norm: 5}
test: {clips: 3}
"""
PROBE = """
data: {num_frames: 10}
model: {name: frames_probe, input_norm: true, num_heads: 2, mlp_ratio: 0, experts: 0}
train: {epochs: 2, batch_size: 8, optimizer: adamw, lr: 0.01, clip_norm: 5}
"""


def test_windows_by_rate_lie_around_their_times():
    audio = AudioSection(rate_hz=1000, seconds=0.4)
    wave = torch.arange(1, 2001).float()
    windows, times = SoundWindows(audio, Amount(fps=4.0)).cut(wave)
    assert times.tolist() == [0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    for window, time_s in zip(windows, times, strict=True):
        assert window[200] == round(time_s * 1000) + 1  # its middle
    assert windows[0][:200].tolist() == [0] * 200
    crops, middles = SoundWindows(audio, Amount(num_frames=3)).cut(wave)
    assert crops[:, 0].tolist() == [1, 801, 1601]
    assert middles.tolist() == pytest.approx([0.2, 1.0, 1.8])
    (crop,), (middle,) = SoundWindows(audio, Amount(num_frames=1)).cut(wave)
    assert (crop[0], middle) == (801, pytest.approx(1.0))


@pytest.fixture(scope="module")
def runs(mini_packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    for name, model in (("logmel", "logmel_mini, backbone_options: {widths: [8, 16]}"), ("vggish", "vggish")):
        (folder / f"{name}.yaml").write_text(SOUND.replace("MODEL", model))
    call = TrainCall(str(folder / "logmel.yaml"), (), mini_packed, folder / "logmel", device="cpu", workers=0)
    train_recipe(call, 0, None)
    return folder


def heard_rows(footage):
    def heard(row):
        with footage.open(row) as source:
            return source.has_audio

    return [row for row in range(len(footage.manifest)) if heard(row)]


def test_clip_vectors_are_those_of_the_network_and_silent_videos_are_named(runs, mini_packed, tmp_path):
    extractor = build_extractor(str(runs / "logmel"), num_frames=2, device="cpu")
    footage = open_footage(mini_packed)
    report = extract(extractor, footage, tmp_path / "f", workers=0)
    heard = heard_rows(footage)
    assert (report.videos, report.vectors, report.feature_sizes) == (len(heard), 2 * len(heard), (16,))
    assert {line["reason"] for line in report.bad} == {"unsupported"}
    assert len(report.bad) == len(footage.manifest) - len(heard)
    store, model = FeatureStore(tmp_path / "f"), load_trained(str(runs / "logmel"), device="cpu").model
    with footage.open(heard[1]) as source:
        wave = source.waveform(16000)
    row = store.manifest.video_ids.index(footage.manifest.video_ids[heard[1]])
    windows = torch.stack([wave[:16000], wave[-16000:]])
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(windows), pre_logits=True)
    torch.testing.assert_close(store.features(row), expected, rtol=2e-3, atol=2e-3)  # stored with 16 bits
    assert store.stored(row)[1].tolist() == pytest.approx([0.5, len(wave) / 16000 - 0.5], abs=1e-6)
    again = find_extractor(store.source, device="cpu")
    assert again.source == store.source


def test_a_probe_on_features_of_sound_trains_and_tags_files(runs, mini_packed, mini_manifest, tmp_path):
    footage = open_footage(mini_packed)
    extract(build_extractor(str(runs / "logmel"), fps=2.0, device="cpu"), footage, tmp_path / "f", workers=0)
    (tmp_path / "probe.yaml").write_text(PROBE)
    call = TrainCall(str(tmp_path / "probe.yaml"), (), tmp_path / "f", tmp_path / "run", device="cpu", workers=0)
    train_recipe(call, 0, None)
    found = evaluate(
        load_trained(str(tmp_path / "run"), device="cpu"), open_footage(tmp_path / "f"), split="test"
    ).scores
    manifest, tagger = Manifest.read(mini_manifest), reeltag.Tagger.from_pretrained(tmp_path / "run", device="cpu")
    tags = tagger(manifest.video_path(manifest.video_ids.index(found.video_ids[0])))
    assert tags.modalities == ["audio"]
    scores = dict(zip(tags.labels, tags.scores, strict=True))
    assert [scores[name] for name in found.label_names] == pytest.approx(found.values[0].tolist(), abs=2e-3)  # 16 bits
    mute = next(row for row in range(len(manifest)) if row not in heard_rows(footage))
    with pytest.raises(MediaError, match="no features of sound"):
        tagger(manifest.video_path(mute))


@pytest.mark.slow
def test_vggish_gives_a_vector_a_patch(runs, mini_packed, tmp_path):
    call = TrainCall(
        str(runs / "vggish.yaml"), ("train.epochs=0.125",), mini_packed, tmp_path / "run", device="cpu", workers=0
    )
    train_recipe(call, 0, None)
    extractor = build_extractor(str(tmp_path / "run"), device="cpu")
    footage = open_footage(mini_packed)
    with footage.open(heard_rows(footage)[0]) as source:
        windows, times = extractor.view.read(source)
        vectors, at = extractor.features(windows, times)
        seconds = windows.shape[1] / 16000
    assert vectors.shape == (math.floor((seconds - 0.015) / 0.96), 128)
    np.testing.assert_allclose(at, (np.arange(len(vectors)) + 0.5) * 0.96, atol=1e-6)
    assert json.loads(json.dumps(extractor.source.extractor))["level"] == "frames"
    with pytest.raises(RecipeError, match="leave --fps and --num-frames out"):
        build_extractor(str(tmp_path / "run"), fps=1.0, level="frames", device="cpu")
