"""Sound, flow and several modalities through training, evaluation and tagging."""

import json

import numpy as np
import pytest
import torch

import reeltag
from reeltag.build import build_parts
from reeltag.data.footage import open_footage
from reeltag.data.manifest import Manifest
from reeltag.engine.run_recipe import TrainCall, dry_run_recipe, find_lr_recipe, train_recipe
from reeltag.errors import ManifestError, MediaError, RecipeError
from reeltag.hub.bundle import read_trained, write_bundle
from reeltag.inference.evaluate import evaluate, summary, write_evaluation
from reeltag.inference.load import load_trained
from reeltag.metrics.evaluate import evaluate_scores
from reeltag.recipe import load_recipe
from reeltag.store.checkpoint import latest_checkpoint, load_checkpoint, write_checksums
from reeltag.store.scores import Scores

SOUND = """
data: {audio: {seconds: 1.0, min_seconds: 0.8, max_seconds: 1.2, speed: 1.1, gain_db: 3}}
model: {name: logmel_mini, backbone_options: {widths: [8, 16]}}
train: {epochs: 2, batch_size: 4, optimizer: adamw, lr: 0.01, clip_norm: 5, bias_prior: true, evaluate_every: 1}
test: {clips: 2}
"""
TWO = """
data: {num_frames: 4, short_side_px: 40, crop_px: 32, flip: true, flow: {method: dis}}
model: {name: two_stream_mini, flow_channels: 2, backbone_options: {widths: [8, 16]}}
train: {epochs: 1, batch_size: 8, optimizer: adamw, lr: 0.01, clip_norm: 5}
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in (("sound", SOUND), ("two", TWO)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def sound_run(recipes, mini_packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "sound"
    train_recipe(TrainCall(str(recipes / "sound.yaml"), (), mini_packed, out, device="cpu", workers=0), 0, None)
    return out


def has_track(footage, row):
    with footage.open(row) as source:
        return source.has_audio


def test_a_model_of_sound_trains_on_the_clips_that_have_some(sound_run, mini_packed):
    lines = [json.loads(line) for line in (sound_run / "metrics.jsonl").read_text().splitlines()]
    assert any("val" in line for line in lines)
    footage = open_footage(mini_packed)
    splits = footage.manifest.splits
    train = [row for row, split in enumerate(splits) if split == "train"]
    mute = sum(not has_track(footage, row) for row in train)
    assert mute > 0
    _, state = load_checkpoint(latest_checkpoint(sound_run / "checkpoints"))
    assert (state["absent"], state["bad_rows"]) == (2 * mute, [])  # in each of two epochs, and none of them is bad
    assert state["clips"] == 2 * (len(train) - mute)
    facts = json.loads((sound_run / "run.json").read_text())
    assert facts["label_shares"] == pytest.approx(footage.manifest.targets()[train].mean(0).tolist(), abs=1e-6)


def test_metrics_are_over_the_covered_clips_and_over_all_with_the_prior(sound_run, mini_packed, tmp_path):
    footage = open_footage(mini_packed)
    loaded = load_trained(str(sound_run), device="cpu")
    found = evaluate(loaded, footage, split="all", workers=0)
    covered = np.array([has_track(footage, row) for row in range(len(footage.manifest))])
    assert found.scores.video_ids == list(footage.manifest.video_ids)
    assert (found.scores.covered == covered).all()
    assert found.num_covered == covered.sum()
    prior = np.array(loaded.trained.label_shares, dtype=np.float32)
    assert (found.scores.values[~covered] == prior).all()
    assert (found.scores.views[~covered] == prior).all()
    own = evaluate_scores(found.scores.values[covered], found.scores.targets[covered]).values
    every = evaluate_scores(found.scores.values, found.scores.targets).values
    assert found.results.values["map_micro"] == own["map_micro"]
    assert found.over_all["map_micro"] == every["map_micro"]
    assert own["map_micro"] != every["map_micro"]
    about = summary(found, loaded)
    assert about["coverage"] == {"covered": int(covered.sum()), "videos": len(covered)}
    assert about["over_all"]["map_micro@all"] == every["map_micro"]
    write_evaluation(found, loaded, tmp_path)
    again = Scores.read(tmp_path / "scores" / "all.parquet")
    assert (again.covered == covered).all()
    assert (again.rows(again.video_ids[::-1]).covered == covered[::-1]).all()


def test_a_clip_with_sound_is_tagged_and_one_without_says_why(sound_run, mini_manifest, mini_packed, tmp_path):
    footage, manifest = open_footage(mini_packed), Manifest.read(mini_manifest)
    tested = [row for row, split in enumerate(manifest.splits) if split == "test"]
    heard = next(row for row in tested if has_track(footage, row))
    mute = next(row for row in tested if not has_track(footage, row))
    write_bundle(read_trained(sound_run), tmp_path / "bundle")
    assert read_trained(tmp_path / "bundle").label_shares == read_trained(sound_run).label_shares
    files = open_footage(mini_manifest)
    expected = evaluate(load_trained(str(sound_run), device="cpu"), files, split="test", workers=0).scores
    tagger = reeltag.Tagger.from_pretrained(tmp_path / "bundle", device="cpu")
    tags = tagger(manifest.video_path(heard))
    assert (tags.modalities, tags.missing) == (["audio"], [])
    scores = dict(zip(tags.labels, tags.scores, strict=True))
    row = expected.video_ids.index(manifest.video_ids[heard])
    assert [scores[name] for name in expected.label_names] == pytest.approx(expected.values[row].tolist(), abs=1e-5)
    with pytest.raises(MediaError, match="takes audio, and the file has no such track"):
        tagger(manifest.video_path(mute))


def test_a_resumed_run_of_sound_ends_with_the_same_weights(sound_run, recipes, mini_packed, tmp_path):
    call = TrainCall(str(recipes / "sound.yaml"), (), mini_packed, tmp_path / "run", device="cpu", workers=0)
    train_recipe(call, 0, None)
    first = load_checkpoint(latest_checkpoint(sound_run / "checkpoints"))[0]["model"]
    last = latest_checkpoint(tmp_path / "run" / "checkpoints")
    steps = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(steps) > 1
    for path in last.iterdir():
        path.unlink()
    last.rmdir()  # as if it had been killed in the second epoch
    resumed = TrainCall(**{**vars(call), "resume": True})
    train_recipe(resumed, 0, None)
    again = load_checkpoint(latest_checkpoint(tmp_path / "run" / "checkpoints"))[0]["model"]
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.fixture(scope="module")
def two_run(recipes, mini_packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "two"
    train_recipe(TrainCall(str(recipes / "two.yaml"), (), mini_packed, out, device="cpu", workers=0), 0, None)
    return out


def test_two_streams_train_on_pictures_and_flow_that_is_made_on_the_way(two_run, mini_packed, mini_manifest):
    loaded, footage = load_trained(str(two_run), device="cpu"), open_footage(mini_packed)
    both = evaluate(loaded, footage, split="test", workers=0)
    assert both.over_all is None
    assert both.scores.covered is None
    blind = evaluate(loaded, footage, split="test", workers=0, without=("flow",))
    assert not np.allclose(both.scores.values, blind.scores.values, atol=1e-3)
    manifest = Manifest.read(mini_manifest)
    tags = reeltag.Tagger.from_pretrained(two_run, device="cpu")(manifest.video_path(0))
    assert (tags.modalities, tags.missing) == (["rgb", "flow"], [])
    with pytest.raises(RecipeError, match="without 'audio': the model takes rgb, flow"):
        evaluate(loaded, footage, without=("audio",))
    with pytest.raises(RecipeError, match="nothing is left"):
        evaluate(loaded, footage, without=("rgb", "flow"))


def test_without_flow_two_streams_are_the_stream_of_pictures(two_run, mini_packed):
    loaded, footage = load_trained(str(two_run), device="cpu"), open_footage(mini_packed)
    blind = evaluate(loaded, footage, split="val", workers=0, without=("flow",)).scores.values
    rows = [row for row, split in enumerate(footage.manifest.splits) if split == "val"]
    from reeltag.build import build_datasets
    from reeltag.data.dataset import in_order, make_loader

    batch = next(iter(make_loader(build_datasets(loaded.trained.recipe, footage)[1], in_order(rows, 8), workers=0)))
    with torch.inference_mode():
        alone = loaded.model.rgb(batch["video"].flatten(0, 1)).sigmoid()
    torch.testing.assert_close(torch.from_numpy(blind), alone, rtol=0, atol=1e-5)


def test_three_modalities_train_together_and_any_may_be_missing(recipes, mini_packed, mini_manifest, tmp_path):
    streams = (
        "{rgb: {name: tsm_mini, backbone_options: {widths: [8, 16]}}, flow: {name: tsn_mini, in_channels: 2, "
        "backbone_options: {widths: [8, 16]}}, audio: {name: logmel_mini, backbone_options: {widths: [8, 16]}}}"
    )
    overrides = (f"model={{name: fusion_gated, width: 16, streams: {streams}}}", "data.audio.seconds=1.0",
                 "data.mix={name: between_class}")  # fmt: skip
    call = TrainCall(str(recipes / "two.yaml"), overrides, mini_packed, tmp_path / "run", device="cpu", workers=0)
    assert train_recipe(call, 0, None)["steps"] == 4
    loaded, footage = load_trained(str(tmp_path / "run"), device="cpu"), open_footage(mini_packed)
    whole = evaluate(loaded, footage, split="test", workers=0)
    assert whole.scores.covered is None  # pictures are always there
    for name in ("rgb", "flow", "audio"):
        less = evaluate(loaded, footage, split="test", workers=0, without=(name,))
        assert not np.allclose(less.scores.values, whole.scores.values, atol=1e-4)
    manifest = Manifest.read(mini_manifest)
    tagger = reeltag.Tagger.from_pretrained(tmp_path / "run", device="cpu")
    for row in [row for row, split in enumerate(manifest.splits) if split == "test"][:4]:
        tags = tagger(manifest.video_path(row))
        there = has_track(footage, row)
        assert (tags.modalities, tags.missing) == (["rgb", "flow"] + ["audio"] * there, [] if there else ["audio"])


def test_a_network_of_clips_takes_flow_alone(recipes, mini_packed, tmp_path):
    overrides = ("model={name: tsn_mini, in_channels: 6, backbone_options: {widths: [8, 16]}}", "data.flow.stack=3",
                 "data.modalities=[flow]", "train.epochs=0.5")  # fmt: skip
    call = TrainCall(str(recipes / "two.yaml"), overrides, mini_packed, tmp_path / "run", device="cpu", workers=0)
    assert train_recipe(call, 0, None)["steps"] == 2
    assert dry_run_recipe(call)["gmacs_per_clip"] > 0


def test_cost_and_rates_of_sound(recipes, mini_packed, tmp_path):
    call = TrainCall(str(recipes / "sound.yaml"), (), mini_packed, tmp_path, device="cpu", workers=0)
    facts = dry_run_recipe(call)
    assert facts["parameters"] == sum(
        p.numel() for p in build_parts(load_recipe(call.recipe), open_footage(mini_packed)).model.parameters()
    )
    assert facts["epoch_s"] > 0
    assert find_lr_recipe(call)["steps"] > 4


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("sound", "data.modalities=[rgb]", r"takes \[audio\]; leave the key out"),
        ("sound", "data.audio.rate_hz=44100", "hears 16000 Hz; set data.audio.rate_hz"),
        ("sound", "model={name: envnet}", "takes exactly 24014 samples, and data.audio gives"),
        ("sound", "model={name: m3}", "hears 8000 Hz"),
        ("sound", "test.crops=3", "sound has no crops"),
        ("sound", "data.mix={name: cutmix}", "made for pictures, and the model takes sound"),
        ("two", "data.modalities=[rgb]", r"takes \[rgb, flow\]"),
        ("two", "data.flow.stack=5", "takes 2 channels of flow .model.flow_channels., and data.flow gives 10"),
        ("two", "data.flow.method=raft", "computed beforehand"),
        ("two", "data.mix={name: between_class_zero_mean}", "made for pictures, and the model takes flow"),
        ("two", "loss={name: lsep, thresholds: clip}", "needs a model of one modality"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_training(recipes, mini_packed, recipe, override, message):
    with pytest.raises(RecipeError, match=message):
        build_parts(load_recipe(recipes / f"{recipe}.yaml", [override]), open_footage(mini_packed))


def test_stored_flow_of_other_settings_is_refused(recipes, mini_packed, tmp_path):
    from reeltag.data.flow_clip import FlowSettings
    from reeltag.data.flow_store import write_flow

    manifest = Manifest.read(mini_packed / "manifest.parquet")
    settings = {"method": "dis", "short_side_px": 128}  # of frames of 40 px, which are not enlarged
    write_flow(open_footage(mini_packed).videos, tmp_path / "flow", FlowSettings(**settings), workers=0)
    footage = open_footage(mini_packed, tmp_path / "flow")
    assert len(footage.flow.manifest) == len(manifest)
    build_parts(load_recipe(recipes / "two.yaml"), footage)
    for override, message in (
        ("data.flow.bound_px=10", "bound_px=20.0, and the recipe data.flow.bound_px=10"),
        ("data.flow.method=tvl1", "method=dis"),
        ("data.flow.short_side_px=32", "short_side_px=40, and the recipe data.flow.short_side_px=32"),
        ("data.flow.compute_px=20", "compute_px=40, and the recipe data.flow.compute_px=20"),
    ):
        with pytest.raises(RecipeError, match=message):
            build_parts(load_recipe(recipes / "two.yaml", [override]), footage)


def test_flow_of_a_network_is_missing_when_a_file_is_tagged(two_run, mini_manifest, tmp_path):
    bundle = write_bundle(read_trained(two_run), tmp_path / "bundle")
    config = json.loads((bundle / "config.json").read_text())
    config["recipe"]["data"]["flow"]["method"] = "raft"
    (bundle / "config.json").write_text(json.dumps(config))
    write_checksums(bundle)
    tags = reeltag.Tagger.from_pretrained(bundle, device="cpu")(Manifest.read(mini_manifest).video_path(0))
    assert (tags.modalities, tags.missing) == (["rgb"], ["flow"])


def test_a_pack_without_sound_is_refused(recipes, mini_manifest, tmp_path):
    from reeltag.data.pack import pack

    manifest = Manifest.read(mini_manifest).take([0, 1, 40])
    for rate_hz, message in ((None, "holds no sound"), (8000, "holds sound at 8000 Hz")):
        out = tmp_path / str(rate_hz)
        pack(manifest, out, store="raw", short_side_px=16, max_frames=1, audio_rate_hz=rate_hz, workers=0)
        with pytest.raises(RecipeError, match=message):
            build_parts(load_recipe(recipes / "sound.yaml"), open_footage(out), val_split="test")


def test_training_on_silence_alone_says_so(recipes, mini_packed, tmp_path):
    call = TrainCall(
        str(recipes / "sound.yaml"),
        ("data.audio.silence_db=-0.1",),
        mini_packed,
        tmp_path / "run",
        device="cpu",
        workers=0,
    )
    with pytest.raises(ManifestError, match="none of 32 training clips that were drawn has what the model takes"):
        train_recipe(call, 0, None)
