"""Extraction: the stored numbers are the network's, bad files do not stop it, and what is there is not done again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from reeltag.cli import main
from reeltag.data.feature_coding import Pca
from reeltag.data.features import FeatureStore
from reeltag.data.footage import FileFootage, open_footage
from reeltag.data.manifest import Manifest
from reeltag.data.youtube8m import quantize
from reeltag.errors import RecipeError, ReeltagError, StoreError, UnknownName
from reeltag.inference.extract import extract, keys_of
from reeltag.inference.extract_views import Amount, ClipsView, FramesView, in_time_order
from reeltag.inference.extractor import build_extractor, find_extractor, weights_digest
from reeltag.inference.load import load_trained
from reeltag.media import open_video
from reeltag.models.image2d import build_backbone

FP16 = {"rtol": 2**-10, "atol": 1e-4}  # what float16 keeps of a value


@pytest.fixture(scope="module")
def few(mini_manifest):
    """Eight of the generated clips: four to train on, two to validate, two to test."""
    whole = Manifest.read(mini_manifest)
    rows = [row for split, count in (("train", 4), ("val", 2), ("test", 2)) for row in rows_in(whole, split)[:count]]
    return whole.take(rows)


def rows_in(manifest, split):
    return [row for row, name in enumerate(manifest.splits) if name == split]


@pytest.fixture(scope="module")
def mini():
    return build_extractor("mini", fps=2, pretrained=False, device="cpu")


def test_backbone_features_are_those_of_the_frames_on_the_time_grid(few, mini, tmp_path):
    report = extract(mini, FileFootage(few), tmp_path / "f", workers=0)
    assert (report.videos, report.made, report.bad) == (8, 8, ())
    store = FeatureStore(tmp_path / "f")
    torch.manual_seed(0)
    backbone = build_backbone("mini").eval()
    with open_video(few.video_path(2)) as video:
        wanted = [int(k * video.fps / 2) for k in range(round(video.num_frames * 2 / video.fps))]
        frames, times = video.frames_at(wanted), video.times_s[wanted]
    sized = FramesView(Amount(fps=2), 64, 64).shrink(frames)
    with torch.inference_mode(), mini.autocast():
        expected = backbone.pool(backbone.forward_features(sized)).float()
    torch.testing.assert_close(store.features(2), expected, **FP16)
    assert np.array_equal(store.stored(2)[1], times)
    assert store.manifest.video_ids == few.video_ids
    assert store.manifest.labels == few.labels
    assert store.manifest.video_path(2).samefile(few.video_path(2))


def test_tsm_frames_average_to_its_clip_vector(mini_run, mini_packed, tmp_path):
    """Frame vectors of a clip, their mean, and the vector before the classifier are one thing by three ways."""
    footage = open_footage(mini_packed)
    stores = {}
    for level in ("frames", "clips"):
        extractor = build_extractor(str(mini_run), level=level, device="cpu")
        extract(extractor, footage, tmp_path / level, workers=0)
        stores[level] = FeatureStore(tmp_path / level)
    assert [stores[level].num_frames(0) for level in stores] == [4, 1]
    loaded = load_trained(str(mini_run), device="cpu")
    view = ClipsView(loaded.trained.recipe.data, loaded.trained.recipe.test, Amount(num_frames=1), 1)
    for row in (0, 20):
        frames, times = footage.timed_clip(row, view.choose, view.shrink)
        with torch.inference_mode(), loaded.autocast():
            clip = view.render(frames)[0, 0].unsqueeze(0)
            direct = loaded.model.forward_head(loaded.model.forward_features(clip), pre_logits=True).float()
        mean = stores["frames"].features(row).mean(0)
        torch.testing.assert_close(mean, direct[0], rtol=2**-7, atol=1e-3)  # the model's own mean may be in bf16
        torch.testing.assert_close(stores["clips"].features(row), direct, **FP16)
        assert stores["clips"].stored(row)[1][0] == pytest.approx(times.mean())


def test_more_vectors_come_from_more_clips_in_the_order_of_time(mini_run, mini_packed, tmp_path):
    extractor = build_extractor(str(mini_run), num_frames=10, device="cpu")
    extract(extractor, open_footage(mini_packed), tmp_path / "f", workers=0)
    store = FeatureStore(tmp_path / "f")
    assert store.num_frames(0) == 12  # three clips of four frames are the first that hold ten
    times = store.stored(0)[1]
    assert (np.diff(times) > 0).all()
    features, ordered = in_time_order(torch.arange(4.0).reshape(2, 2, 1), np.array([[0.0, 2.0], [1.0, 3.0]]))
    assert features.flatten().tolist() == [0, 2, 1, 3]
    assert ordered.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("amount", "frames", "fps", "expected"),
    [
        (Amount(fps=1), 100, 25.0, 4),
        (Amount(fps=1), 10, 25.0, 1),
        (Amount(num_frames=7), 100, 25.0, 7),
        (Amount(fps=50), 100, 25.0, 200),
        (Amount(fps=2), 12, 0.0, 12),  # no rate is known: every frame
        (Amount(fps=1000), 1_000_000, 25.0, 4096),
    ],
)
def test_how_many_vectors_a_video_gets(amount, frames, fps, expected):
    assert amount.of(frames, fps) == expected


def test_which_frames_a_backbone_sees():
    assert FramesView(Amount(fps=5), 8, 8).choose(20, 10.0) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert FramesView(Amount(fps=50), 8, 8).choose(5, 10.0) == [0, 1, 2, 3, 4]  # never a frame twice
    assert FramesView(Amount(num_frames=4), 8, 8).choose(20, 10.0) == [2, 7, 12, 17]
    assert FramesView(Amount(num_frames=9), 8, 8).choose(3, 10.0) == [0, 1, 2]
    with pytest.raises(ValueError, match="one of the two"):
        Amount(1.0, 3)
    with pytest.raises(ValueError, match="above 0"):
        Amount(fps=-1)


def test_readers_in_other_processes_change_nothing_and_times_count_from_the_part_used(few, mini, tmp_path):
    part = replace(few, start_s=np.array([1.0] + [np.nan] * 7), end_s=np.array([2.0] + [np.nan] * 7))
    extract(mini, FileFootage(part), tmp_path / "here", workers=0)
    extract(mini, FileFootage(part), tmp_path / "there", workers=2)
    here, there = FeatureStore(tmp_path / "here"), FeatureStore(tmp_path / "there")
    for row in range(len(few)):
        assert torch.equal(here.stored(row)[0], there.stored(row)[0])
    assert here.stored(0)[1] == pytest.approx([0.0, 0.5], abs=0.05)  # one frame of 25 a second
    assert here.num_frames(1) > 2


def test_bad_files_are_listed_and_the_others_go_on(few, mini, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 100)
    paths = [str(few.video_path(0).resolve()), str(broken), str(few.video_path(1).resolve())]
    manifest = Manifest.build(paths, [few.labels[0]] * 3, few.label_names, root=tmp_path, video_ids=["a", "b", "c"])
    report = extract(mini, FileFootage(manifest), tmp_path / "f", workers=0)
    assert (report.videos, [line["video_id"] for line in report.bad]) == (2, ["b"])
    store = FeatureStore(tmp_path / "f")
    assert store.manifest.video_ids == ("a", "c")
    line = json.loads((tmp_path / "f" / "bad_files.jsonl").read_text())
    assert (line["video_id"], line["path"], line["reason"]) == ("b", str(broken), "not_media")


def test_a_second_call_does_nothing_and_new_or_changed_videos_are_made(few, mini, tmp_path):
    folder = tmp_path / "f"
    extract(mini, FileFootage(few.take(range(5))), folder, workers=0)
    shard = (folder / "shard-000000.safetensors").read_bytes()
    assert extract(mini, FileFootage(few.take(range(5))), folder, workers=0).made == 0
    assert extract(mini, FileFootage(few), folder, workers=0).made == 3
    assert (folder / "shard-000000.safetensors").read_bytes() == shard
    relabelled = replace(few, labels=((0,),) * len(few))
    assert extract(mini, FileFootage(relabelled), folder, workers=0).made == 0
    assert FeatureStore(folder).manifest.labels == ((0,),) * len(few)
    longer = tmp_path / "longer.mp4"
    shutil.copy(few.video_path(0), longer)
    longer.write_bytes(longer.read_bytes() + b"\0\0\0\x08free")  # the same pictures in a file of another size
    paths = (str(longer), *(str(few.video_path(row).resolve()) for row in range(1, len(few))))
    assert extract(mini, FileFootage(replace(few, paths=paths)), folder, workers=0).made == 1


def test_other_weights_or_settings_are_refused_with_both_hashes(few, mini, mini_run, tmp_path):
    one = FileFootage(few.take([0]))
    extract(mini, one, tmp_path / "f", workers=0)
    changed = replace(mini, source=replace(mini.source, weights_hash="f" * 64))
    with pytest.raises(StoreError, match=f"other weights.*{mini.source.weights_hash[:12]}.*ffffffffffff.*never mixed"):
        extract(changed, one, tmp_path / "f", workers=0)
    other = build_extractor("mini", fps=4, pretrained=False, device="cpu")
    with pytest.raises(
        StoreError, match=f"{mini.source.recipe_hash[:12]}.*2 fps.*{other.source.recipe_hash[:12]}.*4 fps"
    ):
        extract(other, one, tmp_path / "f", workers=0)
    with pytest.raises(StoreError, match="other weights"):
        extract(build_extractor(str(mini_run), device="cpu"), one, tmp_path / "f", workers=0)


def test_one_changed_weight_changes_the_digest_and_its_order_does_not():
    state = build_backbone("mini").state_dict()
    turned = dict(reversed(list(state.items())))
    assert weights_digest(turned) == weights_digest(state)
    name = "net.stem.0.weight"
    channels_last = {**state, name: state[name].contiguous(memory_format=torch.channels_last)}
    assert weights_digest(channels_last) == weights_digest(state)
    state[name].view(-1)[7] += 1e-3
    assert weights_digest(state) != weights_digest(build_backbone("mini").state_dict())


def test_pca_is_fitted_on_the_training_split_alone(mini, mini_manifest, tmp_path):
    footage, notes = open_footage(mini_manifest), []
    finer = build_extractor("mini", num_frames=6, pretrained=False, device="cpu")
    extract(finer, footage, tmp_path / "plain", workers=0)
    extract(finer, footage, tmp_path / "small", pca=10, quantize=True, workers=0, note=notes.append)
    plain, small = FeatureStore(tmp_path / "plain"), FeatureStore(tmp_path / "small")
    train = rows_in(plain.manifest, "train")
    expected = Pca.fit([plain.features(row) for row in train], 10)
    assert torch.equal(small.coding.pca.components, expected.components)
    assert f"{len(train)} videos" in notes[0]
    assert small.feature_sizes == (10,)
    assert small.stored(0)[0].dtype == torch.uint8
    white = expected.whiten(plain.features(40)).clamp(-2, 2)
    assert (small.features(40) - white).abs().max() < 0.008  # half a step of 4 / 255
    assert not (tmp_path / "small" / "raw").exists()
    (tmp_path / "small" / "shard-000000.safetensors").write_bytes(b"")  # the PCA stays when features are made anew
    report = extract(finer, footage, tmp_path / "small", pca=10, quantize=True, workers=0)
    assert (report.made, report.mended) == (len(plain), 1)
    again = FeatureStore(tmp_path / "small").stored(40)[0]
    assert torch.equal(again, torch.from_numpy(quantize(white.numpy())))  # one code, from raw features or from pixels
    for options, words in (({"pca": 9}, "PCA of 10 components, this call asks for 9"), ({}, "other PCA")):
        with pytest.raises(StoreError, match=words):
            extract(finer, footage, tmp_path / "small", workers=0, **options)
    with pytest.raises(StoreError, match="features without PCA"):
        extract(finer, footage, tmp_path / "plain", pca=10, workers=0)


def test_settings_that_contradict_each_other(mini, mini_run, few, tmp_path):
    with pytest.raises(RecipeError, match="add --pca"):
        extract(mini, FileFootage(few), tmp_path / "f", quantize=True, workers=0)
    with pytest.raises(RecipeError, match=r"--pca 500: .* allow 1 to 128"):
        extract(mini, FileFootage(few), tmp_path / "f", pca=500, workers=0)
    with pytest.raises(UnknownName, match="Did you mean 'resnet50'"):
        build_extractor("resnet5O")
    for given, words in (
        ({"model": "mini"}, "no published weights"),
        ({"model": "mini", "pretrained": False, "level": "clips"}, "single frames"),
        ({"model": "mini", "pretrained": False, "fps": 1.0, "num_frames": 3}, "one of the two"),
        ({"model": str(mini_run), "crop_px": 64}, "--crop-px is for backbones"),
    ):
        with pytest.raises(RecipeError, match=words):
            build_extractor(**given)


def test_a_timm_model_keeps_its_own_size_and_is_found_again(few, tmp_path):
    extractor = build_extractor("test_resnet", num_frames=2, pretrained=False, device="cpu")
    assert extractor.view.crop_px == 160  # what timm says of this model
    extract(extractor, FileFootage(few.take([0, 1])), tmp_path / "f", workers=0)
    store = FeatureStore(tmp_path / "f")
    again = find_extractor(store.source, device="cpu")
    with open_video(few.video_path(0)) as video:
        features, times = again.of_video(video)
    torch.testing.assert_close(store.features(0), features, **FP16)
    assert np.array_equal(times, store.stored(0)[1])


def test_a_network_that_gives_nan_is_named_with_the_video(few, mini, tmp_path):
    broken = replace(mini, encode=lambda clips: mini.encode(clips) * float("nan"))
    with pytest.raises(ReeltagError, match=f"{few.video_ids[0]}: a feature is not finite.*weights are broken"):
        extract(broken, FileFootage(few.take([0])), tmp_path / "f", workers=0)


def test_keys_follow_the_pack_and_the_part_of_a_video(few, mini_packed):
    footage = open_footage(mini_packed)
    assert len(set(keys_of(footage))) == len(footage.manifest)
    parts = Manifest.build(["a.mp4", "a.mp4"], [[], []], [], root=few.root, start_s=[0, 1], end_s=[1, 2])
    assert len(set(keys_of(FileFootage(parts)))) == 2


def test_the_verb_lists_what_is_bad_and_ends_with_1(few, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"")
    lines = [f"{few.video_path(0).resolve()},{few.label_names[0]},train", f"bad.mp4,{few.label_names[0]},val"]
    (tmp_path / "m.csv").write_text("path,labels,split\n" + "\n".join(lines) + "\n")
    common = ["reeltag", "extract", "mini", str(tmp_path / "m.csv"), "--drawn", "--out", str(tmp_path / "f")]
    monkeypatch.setattr("sys.argv", [*common, "--workers", "0", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    assert left.value.code == 1
    found = json.loads(captured.out)
    assert (found["videos"], found["bad"][0]["reason"], found["feature_sizes"]) == (1, "empty", [128])
    monkeypatch.setattr("sys.argv", [*common, "--fps", "3"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "never mixed" in capsys.readouterr().err
