"""Joint models of three modalities through training, evaluation without one, tagging and late fusion with others."""

import numpy as np
import pytest

import reeltag
from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.engine.run_recipe import TrainCall, dry_run_recipe, train_recipe
from reeltag.errors import RecipeError
from reeltag.inference.ensemble_fit import fit_ensemble
from reeltag.inference.evaluate import evaluate
from reeltag.inference.load import load_trained

THREE = """
data: {num_frames: 4, short_side_px: 40, crop_px: 32, flip: true, flow: {method: dis}, audio: {seconds: 1.0}}
model:
  name: %s
  width: 16
  alone: 0.3
  streams:
    rgb: {name: tsm_mini, backbone_options: {widths: [8, 16]}}
    flow: {name: tsn_mini, backbone_options: {widths: [8, 16]}}
    audio: {name: logmel_mini, backbone_options: {widths: [8, 16]}}
train: {epochs: 1, batch_size: 8, optimizer: adamw, lr: 0.01, clip_norm: 5, bias_prior: true}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "three.yaml"
    path.write_text(THREE % "fusion_gated")
    return path


@pytest.fixture(scope="module")
def run(recipe, mini_packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "three"
    train_recipe(TrainCall(str(recipe), (), mini_packed, out, device="cpu", workers=0), 0, None)
    return out


def test_all_three_are_read_and_each_may_be_missing(run, mini_packed):
    loaded, footage = load_trained(str(run), device="cpu"), open_footage(mini_packed)
    whole = evaluate(loaded, footage, split="test", workers=0)
    assert whole.scores.covered is None  # a clip without sound is covered by its pictures
    with_track = np.array([_has_track(footage, video) for video in whole.scores.video_ids])
    assert with_track.any()
    assert not with_track.all()
    for name in ("rgb", "flow", "audio"):
        found = evaluate(loaded, footage, split="test", workers=0, without=(name,)).scores.values
        changed = np.abs(found - whole.scores.values).max(1) > 1e-5
        assert (changed == (with_track if name == "audio" else True)).all()  # a track that is not there is not missed
    deaf = evaluate(loaded, footage, split="test", workers=0, without=("rgb", "flow"))
    assert (deaf.scores.covered == with_track).all()


def _has_track(footage, video):
    with footage.open(footage.manifest.video_ids.index(video)) as source:
        return source.has_audio


def test_a_file_is_tagged_with_what_it_has(run, mini_packed, mini_manifest):
    manifest, footage = Manifest.read(mini_manifest), open_footage(mini_packed)
    tagger = reeltag.Tagger.from_pretrained(run, device="cpu")
    for heard in (True, False):
        row = next(r for r, video in enumerate(manifest.video_ids) if _has_track(footage, video) == heard)
        tags = tagger(manifest.video_path(row))
        assert tags.modalities == ["rgb", "flow", *["audio"] * heard]
        assert tags.missing == ["audio"] * (not heard)


def test_scores_of_the_joint_model_and_of_its_parts_are_fused(run, mini_packed):
    loaded, footage = load_trained(str(run), device="cpu"), open_footage(mini_packed)
    whole = evaluate(loaded, footage, split="test", workers=0).scores
    heard = evaluate(loaded, footage, split="test", workers=0, without=("rgb", "flow")).scores
    fused = fit_ensemble([("all", whole), ("audio", heard)]).apply([("all", whole), ("audio", heard)], by_place=True)
    at = [whole.video_ids.index(video) for video in fused.video_ids]
    mute = ~heard.covered[at]
    np.testing.assert_allclose(fused.values[mute], whole.values[at][mute], rtol=1e-6)
    both = (whole.values[at] + heard.values[at]) / 2
    np.testing.assert_allclose(fused.values[~mute], both[~mute], rtol=1e-5)


def test_costs_are_counted_and_what_does_not_fit_is_said(recipe, mini_packed, tmp_path):
    call = TrainCall(str(recipe), (), mini_packed, tmp_path / "run", device="cpu", workers=0)
    assert dry_run_recipe(call)["gmacs_per_clip"] > 0
    for change, words in (
        ("data.modalities=[rgb]", r"fusion_gated takes \[rgb, flow, audio\]"),
        ("data.flow.stack=5", "takes 2 channels of flow .model.streams.flow.in_channels., and data.flow gives 10"),
        ("data.audio.rate_hz=8000", "fusion_gated hears 16000 Hz"),
    ):
        with pytest.raises(RecipeError, match=words):
            train_recipe(TrainCall(**{**vars(call), "overrides": (change,)}), 0, None)
