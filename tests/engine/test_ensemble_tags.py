"""An ensemble fitted on runs tags files: as its members' evaluations fused, and with what a file has."""

import json
import shutil
import wave

import numpy as np
import pytest

from reeltag.cli import app
from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.errors import MediaError, StoreError
from reeltag.inference.ensemble import Ensemble
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.evaluate import evaluate, write_evaluation
from reeltag.inference.load import load_trained
from reeltag.inference.predict import Tagger
from reeltag.store.scores import Scores

SOUND = """
data: {audio: {seconds: 1.0}}
model: {name: logmel_mini, backbone_options: {widths: [8, 16]}}
train: {epochs: 1, batch_size: 4, optimizer: adamw, lr: 0.01, bias_prior: true}
"""


@pytest.fixture(scope="module")
def fitted(mini_run, mini_packed, mini_manifest, tmp_path_factory):
    """A folder with two evaluated runs and the ensemble that the command line fits on them."""
    folder = tmp_path_factory.mktemp("ensemble")
    (folder / "sound.yaml").write_text(SOUND)
    call = TrainCall(str(folder / "sound.yaml"), (), mini_packed, folder / "audio", device="cpu", workers=0)
    train_recipe(call, 0, None)
    shutil.copytree(mini_run, folder / "rgb")
    for name in ("rgb", "audio"):
        loaded = load_trained(str(folder / name), device="cpu")
        write_evaluation(evaluate(loaded, open_footage(mini_manifest), split="test", workers=0), loaded, folder / name)
    given = [f"{name}={folder / name}" for name in ("rgb", "audio")]
    call = ["ensemble", "fit", *given, "--of", "evidence", "--split", "test", "--out", str(folder / "all.json")]
    app(call, standalone_mode=False)
    return folder


def test_a_file_is_tagged_as_its_evaluations_are_fused(fitted, mini_manifest, tmp_path):
    moved = shutil.copytree(fitted, tmp_path / "elsewhere")  # members are found beside their ensemble
    tagger = EnsembleTagger.from_file(moved / "all.json", device="cpu")
    assert tagger.takes == ("rgb", "audio")
    members = [(name, Scores.read(fitted / name / "scores" / "test.parquet")) for name in ("rgb", "audio")]
    fused = Ensemble.read(fitted / "all.json").apply(members)
    manifest, seen = Manifest.read(mini_manifest), set()
    heard = dict(zip(members[1][1].video_ids, members[1][1].covered.tolist(), strict=True))
    for row, video in enumerate(fused.video_ids[:8]):
        tags = tagger(manifest.video_path(manifest.video_ids.index(video)))
        by_label = dict(zip(tags.labels, tags.scores, strict=True))
        found = [by_label[name] for name in fused.label_names]
        assert found == pytest.approx(fused.values[row].tolist(), abs=1e-5)
        assert tags.scores == sorted(tags.scores, reverse=True)
        assert tags.missing == ([] if heard[video] else ["audio"])
        seen.add(heard[video])
    assert seen == {True, False}


def test_the_command_line_tags_by_an_ensemble(fitted, mini_manifest, tmp_path, capsys):
    manifest = Manifest.read(mini_manifest)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    videos = [str(manifest.video_path(0)), str(tmp_path / "no.mp4")]
    capsys.readouterr()
    call = ["tag", str(fitted / "all.json"), *videos, "--top", "3", "--json", "--device", "cpu"]
    assert app(call, standalone_mode=False) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(first["labels"]) == 3
    assert second["error"]["reason"] != "unsupported"
    with pytest.raises(MediaError):
        EnsembleTagger.from_file(fitted / "all.json", device="cpu")(videos[1])


def test_a_file_of_sound_is_for_the_members_that_listen(fitted, tmp_path):
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        tone = 12_000 * np.sin(np.arange(32_000) * 0.2)
        file.writeframes(tone.astype("<i2").tobytes())
    tags = EnsembleTagger.from_file(fitted / "all.json", device="cpu")(tmp_path / "s.wav")
    assert (tags.modalities, tags.missing) == (["audio"], ["rgb"])
    alone = Tagger.from_pretrained(fitted / "audio", device="cpu")(tmp_path / "s.wav")
    made = Ensemble.read(fitted / "all.json")
    place = {label: at for at, label in enumerate(made.label_names)}
    for label, score in zip(alone.labels, alone.scores, strict=True):
        evidence = np.log(score / (1 - score)) - made.evidence.centers[1][place[label]]
        wanted = 1 / (1 + np.exp(-made.evidence.base[place[label]] - evidence))
        assert tags.scores[tags.labels.index(label)] == pytest.approx(wanted, abs=1e-5)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with pytest.raises(MediaError, match="still PNG|picture"):
        EnsembleTagger.from_file(fitted / "all.json", device="cpu")(tmp_path / "picture.png")


def test_an_ensemble_of_scores_or_of_other_weights_does_not_tag(fitted, tmp_path):
    made = Ensemble.read(fitted / "all.json")
    assert (
        made.hash
        == made.model_copy(update={"members": [m.model_copy(update={"model": ""}) for m in made.members]}).hash
    )
    made.write(tmp_path / "scores.json", [None, fitted / "audio"])
    with pytest.raises(StoreError, match="does not say where the model of 'rgb' lies"):
        EnsembleTagger.from_file(tmp_path / "scores.json")
    made.write(tmp_path / "swapped.json", [fitted / "audio", fitted / "rgb"])
    with pytest.raises(StoreError, match="was fitted on .*: choose the other --checkpoint, or evaluate and fit again"):
        EnsembleTagger.from_file(tmp_path / "swapped.json", device="cpu")
