"""Feature stores: what was written is read back, damage is noticed and mended, and nothing is ever mixed."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from reeltag.data.feature_source import FeatureSource
from reeltag.data.feature_writer import FeatureWriter
from reeltag.data.features import FeatureStore, is_feature_store, pad_features, rate_of
from reeltag.data.footage import FeatureFootage, open_footage
from reeltag.data.manifest import Manifest
from reeltag.errors import StoreError

WIDTH = 6
LENGTHS = (3, 1, 7, 4)
SOURCE = FeatureSource(
    {"kind": "backbone", "model": "mini", "level": "frames", "fps": 2.0}, "a" * 64, "b" * 64, (WIDTH,)
)


def features_of(row):
    generator = torch.Generator().manual_seed(row)
    return torch.randn(LENGTHS[row], WIDTH, generator=generator).half(), np.arange(LENGTHS[row]) * 0.5 + row


def manifest_of(rows, root, splits=("train", "train", "val", "test")):
    return Manifest.build(
        [f"{row}.mp4" for row in rows],
        [[row % 2] for row in rows],
        ["x", "y"],
        root=root,
        splits=[splits[r] for r in rows],
    )


def write(folder, rows=(0, 1, 2, 3), source=SOURCE, **options):
    with FeatureWriter(folder, source, **options) as writer:
        made = [row for row in rows if f"key{row}" not in writer.known]
        for row in made:
            writer.add(f"key{row}", *features_of(row))
        writer.finish(manifest_of(rows, folder.parent), [f"key{row}" for row in rows])
    return made


def same(store, rows=(0, 1, 2, 3)):
    assert len(store) == len(rows)
    for at, row in enumerate(rows):
        features, times = features_of(row)
        assert torch.equal(store.features(at), features.float())
        assert np.array_equal(store.stored(at)[1], times)


@pytest.mark.parametrize("shard_bytes", [1, 48, 1 << 20])  # a shard a video, two, all in one
def test_written_is_read_back(tmp_path, shard_bytes):
    write(tmp_path / "f", shard_bytes=shard_bytes)
    store = FeatureStore(tmp_path / "f")
    same(store)
    store.verify()
    assert [store.num_frames(row) for row in range(4)] == list(LENGTHS)
    assert store.feature_sizes == (WIDTH,)
    assert store.manifest.splits == ("train", "train", "val", "test")
    same(pickle.loads(pickle.dumps(store)))
    assert len(list((tmp_path / "f").glob("shard-*.safetensors"))) == {1: 4, 48: 3, 1 << 20: 1}[shard_bytes]


def test_footage_gives_the_vectors_asked_for(tmp_path):
    write(tmp_path / "f")
    footage = open_footage(tmp_path / "f")
    assert isinstance(footage, FeatureFootage)
    seen = []
    clip = footage.clip(2, lambda count, fps: seen.append((count, fps)) or [6, 0, 0])
    assert seen == [(7, 2.0)]  # seven vectors, half a second apart
    assert torch.equal(clip, features_of(2)[0].float()[[6, 0, 0]])
    assert rate_of(np.array([3.0])) == 0


@pytest.mark.parametrize("position", [-1, -100, 20])
def test_a_flipped_bit_is_noticed_on_reading_and_made_anew(tmp_path, position):
    write(tmp_path / "f", shard_bytes=48)
    shard = tmp_path / "f" / "shard-000001.safetensors"  # holds video 2 alone
    data = bytearray(shard.read_bytes())
    data[position] ^= 4
    shard.write_bytes(data)
    store = FeatureStore(tmp_path / "f")
    assert torch.equal(store.features(0), features_of(0)[0].float())
    with pytest.raises(StoreError, match=r"shard-000001.*'2' is damaged.*reeltag extract .* again"):
        [store.features(row) for row in range(4)]
    with pytest.raises(StoreError, match=r"shard-000001.*SHA-256"):
        store.verify()
    assert write(tmp_path / "f", shard_bytes=48) == [2]
    mended = FeatureStore(tmp_path / "f")
    same(mended)
    mended.verify()
    assert not shard.exists()


@pytest.mark.parametrize("lost", ["shard-000001.safetensors", "shard-000001.json"])
def test_a_lost_file_is_made_anew(tmp_path, lost):
    write(tmp_path / "f", shard_bytes=48)
    (tmp_path / "f" / lost).unlink()
    assert write(tmp_path / "f", shard_bytes=48) == [2]
    same(FeatureStore(tmp_path / "f"))


def test_a_flipped_bit_in_an_index_is_noticed_too(tmp_path):
    write(tmp_path / "f", shard_bytes=48)
    index = tmp_path / "f" / "shard-000000.json"
    index.write_text(index.read_text().replace("3,", "2,", 1))
    assert write(tmp_path / "f", shard_bytes=48) == [0, 1]
    same(FeatureStore(tmp_path / "f"))


def test_a_truncated_shard_and_a_missing_one_are_named(tmp_path):
    write(tmp_path / "f")
    shard = tmp_path / "f" / "shard-000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match="shard-000000"):
        FeatureStore(tmp_path / "f").features(3)
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-000000.*missing"):
        FeatureStore(tmp_path / "f")


def test_new_videos_are_added_and_labels_taken_over(tmp_path):
    folder = tmp_path / "f"
    write(folder, rows=(0, 1))
    before = (folder / "shard-000000.safetensors").read_bytes()
    assert write(folder) == [2, 3]
    assert (folder / "shard-000000.safetensors").read_bytes() == before
    same(FeatureStore(folder))
    with FeatureWriter(folder, SOURCE) as writer:  # the same videos in another split
        writer.finish(manifest_of((0, 3), tmp_path, splits=("val",) * 4), ["key0", "key3"])
    store = FeatureStore(folder)
    assert store.manifest.splits == ("val", "val")
    same(store, rows=(0, 3))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("weights_hash", "c" * 64, "other weights: .* has aaaaaaaaaaaa .* this call has cccccccccccc"),
        (
            "recipe_hash",
            "d" * 64,
            "other settings of the extraction: .* has bbbbbbbbbbbb .* this call has dddddddddddd",
        ),
        ("pca_hash", "e" * 64, "other PCA: .* has None .* this call has eeeeeeeeeeee"),
        ("feature_sizes", (3, 3), r"other widths: .* has \(6,\) .* this call has \(3, 3\)"),
    ],
)
def test_features_of_another_source_are_never_mixed_in(tmp_path, field, value, words):
    write(tmp_path / "f", rows=(0, 1))
    files = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    with pytest.raises(StoreError, match=words):
        write(tmp_path / "f", source=replace(SOURCE, **{field: value}))
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()} == files


def test_two_writers_at_once_are_refused(tmp_path):
    with FeatureWriter(tmp_path, SOURCE), pytest.raises(StoreError, match="another process is writing"):
        FeatureWriter(tmp_path, SOURCE)
    FeatureWriter(tmp_path, SOURCE).__exit__(None)  # the first has let go


def test_an_unfinished_store_says_so_and_an_error_keeps_what_was_made(tmp_path):
    def interrupted():
        with FeatureWriter(tmp_path / "f", SOURCE) as writer:
            writer.add("key0", *features_of(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(StoreError, match="never finished"):
        FeatureStore(tmp_path / "f")
    assert write(tmp_path / "f") == [1, 2, 3]


def test_the_writer_takes_only_what_fits(tmp_path):
    with FeatureWriter(tmp_path, SOURCE) as writer:
        for features, times in ((torch.zeros(2, 5), [0, 1]), (torch.zeros(2, WIDTH), [0]), (torch.zeros(0, WIDTH), [])):
            with pytest.raises(ValueError, match="expected widths"):
                writer.add("key", features, np.array(times, dtype=np.float64))
        with pytest.raises(StoreError, match="no video has features"):
            writer.finish(manifest_of((0,), tmp_path), ["key0"])


def test_a_folder_of_something_else_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"features.json does not exist"):
        FeatureStore(tmp_path)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    assert not is_feature_store(tmp_path)  # a run keeps the source of its features under the same name
    (tmp_path / "features.json").unlink()
    with pytest.raises(StoreError, match="something else"):
        FeatureWriter(tmp_path, SOURCE)


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path):
    write(tmp_path / "f")
    index = json.loads((tmp_path / "f" / "shard-000000.json").read_text())
    assert index["videos"]["key2"][:2] == [4, 7]  # after three and one vectors, seven of them
    manifest = Manifest.read(tmp_path / "f" / "manifest.parquet")
    swapped = {**manifest.extra, "features_first": (0, 3, 0, 11)}
    replace(manifest, extra=swapped).write(tmp_path / "f" / "manifest.parquet")
    with pytest.raises(StoreError, match="CRC-32"):
        FeatureStore(tmp_path / "f").features(2)


def test_padding_by_hand():
    clips = [torch.full((2, 1, 3), 1.0), torch.full((2, 3, 3), 2.0)]
    padded, mask = pad_features(clips)
    assert padded.shape == (2, 2, 3, 3)
    assert padded[0, 1].tolist() == [[1.0] * 3, [0.0] * 3, [0.0] * 3]
    assert mask.tolist() == [[[True, False, False]] * 2, [[True] * 3] * 2]
