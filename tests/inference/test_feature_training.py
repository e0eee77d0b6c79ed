"""Training, evaluating and tagging on stored features: one model, the same scores by every way to it."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import reeltag
from reeltag.data.dataset import ClipDataset, in_order, make_loader
from reeltag.data.feature_view import FeatureTestView, FeatureTrainingView
from reeltag.data.footage import FileFootage, open_footage
from reeltag.data.manifest import Manifest
from reeltag.engine.run_recipe import TrainCall, dry_run_recipe, find_lr_recipe, train_recipe
from reeltag.errors import RecipeError, StoreError
from reeltag.hub.bundle import read_trained, write_bundle
from reeltag.inference.evaluate import evaluate
from reeltag.inference.extract import extract
from reeltag.inference.extractor import build_extractor
from reeltag.inference.load import load_trained
from reeltag.models.scoring import model_inputs
from reeltag.recipe import DataSection, TestSection

RECIPE = """
data: {num_frames: 10}
model: {name: frames_probe, input_norm: true, num_heads: 4, mlp_ratio: 0, experts: 0}
train: {epochs: 30, batch_size: 8, optimizer: adamw, lr: 0.01, clip_norm: 5, bias_prior: true}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "probe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def backbone_run(mini_run, tmp_path_factory):
    """A copy of the small TSM, which tests may move."""
    return shutil.copytree(mini_run, tmp_path_factory.mktemp("extractor") / "tsm")


@pytest.fixture(scope="module")
def store(backbone_run, mini_manifest, tmp_path_factory):
    """Features of the files themselves: 12 vectors a clip, fewer of each second training clip, which is cut."""
    out = tmp_path_factory.mktemp("features") / "tsm"
    extractor = build_extractor(str(backbone_run), fps=3, device="cpu")
    manifest = Manifest.read(mini_manifest)
    ends = [1.0 if split == "train" and row % 2 else math.nan for row, split in enumerate(manifest.splits)]
    footage = FileFootage(replace(manifest, end_s=np.array(ends)))
    extract(extractor, footage, out, pca=12, quantize=True, workers=0)
    return out


@pytest.fixture(scope="module")
def run(recipe, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "probe"
    train_recipe(TrainCall(str(recipe), (), store, out, device="cpu"), 0, None)
    return out


def test_training_learns_from_the_features(run, store):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert load_trained(str(run), device="cpu").trained.recipe.model.options["feature_sizes"] == [12]
    results = evaluate(load_trained(str(run), device="cpu"), open_footage(store), split="train").results
    assert results.values["map_micro"] > 0.6  # a constant scores 0.15


def test_tagging_a_file_scores_what_evaluating_its_features_does(run, store, mini_manifest, tmp_path):
    found = evaluate(load_trained(str(run), device="cpu"), open_footage(store), split="test").scores
    manifest = Manifest.read(mini_manifest)
    write_bundle(read_trained(run), tmp_path / "bundle")
    for path in (run, tmp_path / "bundle"):
        tagger = reeltag.Tagger.from_pretrained(path, device="cpu")
        for video_id, expected in list(zip(found.video_ids, found.values, strict=True))[:3]:
            tags = tagger(manifest.video_path(manifest.video_ids.index(video_id)))
            scores = dict(zip(tags.labels, tags.scores, strict=True))
            assert [scores[name] for name in found.label_names] == pytest.approx(expected.tolist(), abs=1e-6)
            assert tags.duration_s > 1


def test_windows_of_a_file_are_tagged_by_the_features_of_their_frames(run, mini_manifest):
    from reeltag.data.sources import FileSource
    from reeltag.inference.explain import explain
    from reeltag.inference.timeline import timeline
    from reeltag.inference.windows import Stretch
    from reeltag.media import open_media

    tagger = reeltag.Tagger.from_pretrained(run, device="cpu")
    path = sorted(mini_manifest.parent.glob("videos/*.mp4"))[0]
    found = timeline(tagger, path, window_s=1.5, hop_s=0.75)
    assert found.windows.times_s.tolist() == [[0, 1.5], [0.75, 2.25], [1.5, 3]]
    assert found.tags == tagger(path)
    with open_media(path) as media:
        for (start, end), scores in zip(found.windows.times_s.tolist(), found.scores, strict=True):
            part = Stretch(media, start, end, {})
            part.frames = {number: media.frames_at([number])[0] for number in part.numbers(range(part.num_frames))}
            assert FileSource("x", part).num_frames == 18
            expected = tagger.scores_of(tagger.features.batch(part, "x"))[0]
            assert scores == pytest.approx(expected.numpy(), abs=1e-6)
    (one, *_) = explain(tagger, path, num_labels=1).explanations
    assert one.place is None
    assert len(one.time) == 8
    assert max(abs(part.evidence) for part in one.time) > 0


def test_an_extractor_that_is_not_at_hand_or_is_another_one(run, backbone_run, mini_run, recipe, tmp_path):
    moved = backbone_run.with_name("moved")
    weights = read_trained(run).features.weights_hash[:12]
    backbone_run.rename(moved)
    try:
        with pytest.raises(
            StoreError, match=f"tsm_mini with weights {weights}, last seen at .*does not exist.*--extractor"
        ):
            reeltag.Tagger.from_pretrained(run, device="cpu")
        reeltag.Tagger.from_pretrained(run, device="cpu", extractor=str(moved))
        other = tmp_path / "other"
        train_recipe(
            TrainCall(str(mini_run / "recipe.yaml"), ("train.epochs=0.1",), manifest_of(mini_run), other, device="cpu"),
            0,
            None,
        )
        with pytest.raises(StoreError, match=f"made with weights {weights}, .*other has [0-9a-f]{{12}}"):
            reeltag.Tagger.from_pretrained(run, device="cpu", extractor=str(other))
    finally:
        moved.rename(backbone_run)


def manifest_of(run):
    return json.loads((run / "run.json").read_text())["manifest"]


def test_features_of_another_extractor_are_refused(run, store, mini_manifest, recipe, tmp_path):
    few = Manifest.read(mini_manifest).take(range(30, 42))
    extract(
        build_extractor("mini", num_frames=2, pretrained=False, device="cpu"),
        FileFootage(few),
        tmp_path / "f",
        workers=0,
    )
    with pytest.raises(StoreError, match="other weights.*evaluate with features of the extractor"):
        evaluate(load_trained(str(run), device="cpu"), open_footage(tmp_path / "f"))
    with pytest.raises(RecipeError, match="first `reeltag extract"):
        evaluate(load_trained(str(run), device="cpu"), open_footage(mini_manifest))
    with pytest.raises(RecipeError, match="first `reeltag extract"):
        train_recipe(TrainCall(str(recipe), (), mini_manifest, tmp_path / "r"), 0, None)
    with pytest.raises(RecipeError, match=r"learns from pixels.*frames_\*"):
        train_recipe(TrainCall("demo/tsn_mini", (), store, tmp_path / "r"), 0, None)
    with pytest.raises(RecipeError, match=r"model.feature_sizes=\[16\].*holds \[12\]"):
        train_recipe(TrainCall(str(recipe), ("model.feature_sizes=[16]",), store, tmp_path / "r"), 0, None)
    with pytest.raises(RecipeError, match=r"data.gain needs pixels"):
        train_recipe(TrainCall(str(recipe), ("data.gain=0.1",), store, tmp_path / "r"), 0, None)
    assert not (tmp_path / "r").exists()


def test_a_resumed_run_ends_with_the_same_weights(run, store, recipe, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    folders = sorted((cut / "checkpoints").glob("step_*"))
    for folder in folders[1:]:
        shutil.rmtree(folder)
    train_recipe(TrainCall(str(recipe), (), store, cut, device="cpu", resume=True), 0, None)
    whole, resumed = (read_trained(path).weights for path in (run, cut))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    (cut / "features.json").write_text(
        (run / "features.json").read_text().replace('"weights_hash": "', '"weights_hash": "0')
    )
    with pytest.raises(StoreError, match="other weights.*resume with the features it began with"):
        train_recipe(TrainCall(str(recipe), (), store, cut, device="cpu", resume=True), 0, None)


def test_a_padded_batch_scores_each_video_as_alone(run, store):
    loaded, footage = load_trained(str(run), device="cpu"), open_footage(store)
    counts = [footage.store.num_frames(row) for row in range(len(footage.manifest))]
    rows = [counts.index(count) for count in sorted(set(counts))]
    assert len(rows) == 2
    recipe = loaded.trained.recipe
    dataset = ClipDataset(footage, FeatureTestView(recipe.data, recipe.test))
    together = next(iter(make_loader(dataset, in_order(rows, 8), workers=0)))
    assert not together["mask"].all()
    with torch.inference_mode():
        scores = loaded.model(*model_inputs(loaded.model, together))
        for at, row in enumerate(rows):
            alone = next(iter(make_loader(dataset, in_order([row], 1), workers=0)))
            features, mask = model_inputs(loaded.model, alone)
            assert mask is None
            torch.testing.assert_close(
                scores[at], loaded.model(features, mask)[0], rtol=1e-4, atol=1e-5
            )  # sums of 8 or 1


def test_views_of_features_by_hand():
    generator = torch.Generator().manual_seed(0)
    data = DataSection(num_frames=4, flip_time=True)
    training, test = FeatureTrainingView(data), FeatureTestView(data, TestSection(clips=2))
    assert training.choose(3, 1.0, generator) == [0, 1, 2]
    drawn = training.choose(12, 1.0, generator)
    assert [frame // 3 for frame in drawn] == [0, 1, 2, 3]  # one of each three
    assert test.choose(3, 1.0, generator) == [0, 1, 2, 0, 1, 2]
    assert test.choose(16, 1.0, generator) == [1, 5, 9, 13, 3, 7, 11, 15]
    frames = torch.arange(4.0).unsqueeze(1)
    seen = {tuple(training.render(frames, generator)[0].flatten().tolist()) for _ in range(20)}
    assert seen == {(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)}
    assert FeatureTrainingView(DataSection(num_frames=9, fps=1.0)).choose(8, 2.0, generator)[-1] < 8
    with pytest.raises(RecipeError, match=r"test.crops=3"):
        FeatureTestView(data, TestSection(crops=3))
    with pytest.raises(RecipeError, match=r"data.flip needs pixels"):
        FeatureTrainingView(DataSection(flip=True))


def test_dry_run_counts_a_model_on_features(recipe, store):
    facts = dry_run_recipe(TrainCall(str(recipe), (), store, device="cpu"))
    assert "feature_sizes" in facts["recipe"]
    assert facts["train_clips"] == 32
    assert facts["gmacs_per_clip"] >= 0


def test_the_range_test_of_the_rate_takes_features(recipe, store, tmp_path):
    found = find_lr_recipe(TrainCall(str(recipe), (), store, tmp_path / "lr", device="cpu"))
    curve = json.loads((tmp_path / "lr" / "find_lr.json").read_text())
    assert min(curve["losses"]) < curve["losses"][0]
    assert found["plot"] == str(tmp_path / "lr" / "find_lr.png")


def test_the_shipped_recipe_takes_any_features(store, tmp_path):
    """What `reeltag extract` names as the next command."""
    call = TrainCall(
        "demo/frozen_features", ("model.num_heads=4", "train.epochs=4"), store, tmp_path / "r", device="cpu"
    )
    assert train_recipe(call, 0, None)["steps"] == 4


def test_training_methods_work_on_features_of_any_length(recipe, store, tmp_path):
    """Mixed clips of different depths, learned thresholds, an average and parts of a batch, and the range test."""
    methods = ("data.mix.name=mixup", "train.ema={decay: 0.9}", "train.accumulate=2", "loss.thresholds=clip")
    call = TrainCall(str(recipe), (*methods, "train.epochs=2"), store, tmp_path / "run", device="cpu")
    assert train_recipe(call, 0, None)["steps"] == 8
    results = evaluate(load_trained(str(tmp_path / "run"), device="cpu"), open_footage(store), split="test").results
    assert math.isfinite(results.values["map_macro"])
    found = find_lr_recipe(TrainCall(str(recipe), methods, store, tmp_path / "lr", device="cpu"))
    assert found["steps"] > 20
    cutmix = TrainCall(str(recipe), ("data.mix.name=cutmix",), store, tmp_path / "no", device="cpu")
    with pytest.raises(RecipeError, match="cutmix needs pixels, .* between_class and mixup mix features too"):
        train_recipe(cutmix, 0, None)
