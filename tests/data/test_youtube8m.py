"""YouTube-8M records: round trips, quantisation, vocabularies, and every video once over workers and processes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from reeltag.data.tfrecord import Damage
from reeltag.data.vocab import vocabulary
from reeltag.data.youtube8m import (
    AUDIOSET_STREAMS,
    VideoRecord,
    decode_video,
    dequantize,
    encode_video,
    quantize,
    read_shard,
    read_vocabulary,
    write_shard,
)
from reeltag.data.youtube8m_loader import YouTube8M
from reeltag.errors import ManifestError, StoreError

RANDOM = np.random.default_rng(1)


def video(name, frames=4, labels=(0, 3), sizes=(6, 2)):
    streams = zip(("rgb", "audio"), sizes, strict=True)
    features = {key: RANDOM.integers(0, 256, (frames, size), dtype=np.uint8) for key, size in streams}
    return VideoRecord(name, np.array(labels, dtype=np.int64), features)


@pytest.fixture
def shards(tmp_path):
    """Five shards of 3, 0, 7, 1 and 4 videos."""
    for shard, count in enumerate((3, 0, 7, 1, 4)):
        videos = (video(f"v{shard}{number}", frames=1 + number) for number in range(count))
        write_shard(tmp_path / f"train{shard}.tfrecord", videos)
    return tmp_path


NAMES = sorted(f"v{shard}{n}" for shard, count in enumerate((3, 0, 7, 1, 4)) for n in range(count))
OPTIONS = {"num_labels": 5, "streams": {"rgb": 6, "audio": 2}}


def test_both_levels_survive_a_round_trip():
    before = video("a/b é")
    after = decode_video(encode_video(before, "frame"), "frame")
    assert (after.video_id, after.labels.tolist()) == ("a/b é", [0, 3])
    np.testing.assert_array_equal(after.features["rgb"], before.features["rgb"])
    np.testing.assert_array_equal(after.features["audio"], before.features["audio"])
    means = {"mean_rgb": np.array([0.5, -1.25], dtype=np.float32), "mean_audio": np.array([3.0], dtype=np.float32)}
    after = decode_video(encode_video(VideoRecord("x", np.array([7]), means), "video"), "video")
    assert after.labels.tolist() == [7]
    assert {key: value.tolist() for key, value in after.features.items()} == {
        "mean_rgb": [0.5, -1.25],
        "mean_audio": [3.0],
    }


def test_dequantised_values_are_those_of_the_published_reader():
    values = dequantize(np.array([0, 1, 128, 255], dtype=np.uint8))
    np.testing.assert_allclose(values, [-1.9921875, -1.9765012, 0.0156556, 2.0078125], atol=1e-6)
    assert values.dtype == np.float32
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantize(dequantize(levels)), levels)
    assert quantize(np.array([-9.0, 9.0])).tolist() == [0, 255]
    inside = RANDOM.uniform(-2, 2, 1000)
    assert np.abs(dequantize(quantize(inside)) - inside).max() <= 4 / 255 / 2 + 1e-3


MANY = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose


@MANY
@pytest.mark.parametrize("workers", [0, 2, 7])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_video_once_over_workers(shards, workers, shuffle):
    data = YouTube8M(shards, **OPTIONS, shuffle=shuffle, buffer=3)
    loader = DataLoader(data, batch_size=4, num_workers=workers, collate_fn=data.collate)
    orders = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        orders.append([name for batch in loader for name in batch["video_ids"]])
        assert sorted(orders[-1]) == NAMES
    assert (orders[0] != orders[1]) == shuffle
    data.set_epoch(0)
    assert [name for batch in loader for name in batch["video_ids"]] == orders[0]  # the order is the seed's and epoch's


@MANY
@pytest.mark.parametrize(("world", "workers"), [(2, 0), (4, 3), (16, 0)])
def test_every_video_once_over_processes(shards, world, workers):
    found = []
    for rank in range(world):
        data = YouTube8M(shards, **OPTIONS, shuffle=True, rank=rank, world=world)
        loader = DataLoader(data, batch_size=2, num_workers=workers, collate_fn=data.collate)
        found += [name for batch in loader for name in batch["video_ids"]]
    assert sorted(found) == NAMES


def test_batches_are_padded_and_masked(shards):
    data = YouTube8M(shards / "train2.tfrecord", **OPTIONS, max_frames=5)
    assert data.feature_sizes == (6, 2)
    batch = next(iter(DataLoader(data, batch_size=7, collate_fn=data.collate)))
    assert batch["mask"].sum(1).tolist() == [1, 2, 3, 4, 5, 5, 5]
    assert batch["features"].shape == (7, 5, 8)
    assert not batch["features"][~batch["mask"]].any()
    assert batch["targets"].tolist() == [[1.0, 0.0, 0.0, 1.0, 0.0]] * 7
    for row, record in enumerate(read_shard(shards / "train2.tfrecord")):
        count = min(5, row + 1)
        expected = np.concatenate([dequantize(record.features[key][:count]) for key in ("rgb", "audio")], axis=1)
        assert batch["features"][row, :count].tolist() == expected.tolist()


def test_video_level_records_are_clips_of_one_frame(tmp_path):
    features = {"mean_rgb": np.ones(3, dtype=np.float32), "mean_audio": np.zeros(2, dtype=np.float32)}
    write_shard(tmp_path / "a.tfrecord", [VideoRecord("x", np.array([1]), features)], "video")
    data = YouTube8M(tmp_path, num_labels=2, level="video", streams={"mean_rgb": 3, "mean_audio": 2})
    batch = data.collate(list(data))
    assert batch["features"].tolist() == [[[1.0, 1.0, 1.0, 0.0, 0.0]]]
    assert batch["mask"].tolist() == [[True]]


def test_what_cannot_be_used_is_named_with_file_and_offset(shards):
    path = shards / "train0.tfrecord"
    videos = [
        video("good"),
        video("strange", labels=(9,)),
        video("narrow", sizes=(5, 2)),
        VideoRecord("deaf", np.array([0]), {"rgb": np.zeros((2, 6), dtype=np.uint8)}),
        video("empty", frames=0),
        video("flipped"),
        video("last"),
    ]
    write_shard(path, videos)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"flipped")] ^= 1
    path.write_bytes(raw)
    data = YouTube8M(path, **OPTIONS)
    batch = data.collate(list(data))
    assert batch["video_ids"] == ["good", "empty", "last"]
    assert batch["mask"].sum(1).tolist() == [4, 0, 4]
    messages = [
        "label 9 is outside the 5 of the vocabulary",
        "stream 'rgb' has 5 values a frame, 6 are asked for",
        "no stream 'audio'; it has rgb",
        "the content",
    ]
    assert len(batch["damages"]) == 4
    for damage, message in zip(batch["damages"], messages, strict=True):
        assert isinstance(damage, Damage)
        assert damage.path == str(path)
        assert damage.message.startswith(message)
    assert [damage.offset for damage in batch["damages"]] == sorted({damage.offset for damage in batch["damages"]})
    with pytest.raises(StoreError, match=r"train0.tfrecord, byte \d+: the content"):
        list(read_shard(path))
    only = data.collate([{"damage": batch["damages"][0]}])  # a batch may come down to nothing
    assert (only["features"].shape, only["video_ids"]) == ((0, 1, 8), [])


def test_records_of_another_kind_are_reported(tmp_path):
    damages = []
    write_shard(tmp_path / "video.tfrecord", [VideoRecord("x", np.array([1]), {})], "video")
    assert [v.features for v in read_shard(tmp_path / "video.tfrecord", "frame", on_damage=damages.append)] == [{}]
    from reeltag.data.tf_example import encode_example
    from reeltag.data.tfrecord import write_records

    write_records(tmp_path / "other.tfrecord", [encode_example({"image": [b"jpeg"]}), b"\xff\xff"])
    assert list(read_shard(tmp_path / "other.tfrecord", on_damage=damages.append)) == []
    assert [damage.message for damage in damages] == [
        "no frame-level record: the record has none of the ids id, video_id; it has image",
        "no frame-level record: a number is cut off or longer than 64 bits",
    ]
    with pytest.raises(ManifestError, match=r"no TFRecord file .*absent"):
        YouTube8M(tmp_path / "absent", num_labels=3)


def test_vocabularies(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text(
        'Index,TrainVideoCount,KnowledgeGraphId,Name\n1,9,/m/b,"Car, red"\n0,9,/m/a,Game\n2,1,/m/c,\n3,1,/m/d,Game\n'
    )
    assert read_vocabulary(path) == ["Game", "Car, red", "/m/c", "/m/d"]
    path.write_text("index,mid,display_name\n0,/m/a,Speech\n")
    assert read_vocabulary(path) == ["Speech"]
    path.write_text("Index,KnowledgeGraphId,Name\n0,/m/a,Game\n2,/m/b,Car\n")
    with pytest.raises(ManifestError, match="must hold 0 to 1, each once"):
        read_vocabulary(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ManifestError, match="found a, b"):
        read_vocabulary(path)


@pytest.mark.slow
def test_real_records_of_audioset(data_dir):
    folder = data_dir / "audioset_vggish"
    data = YouTube8M(folder, num_labels=527, streams=AUDIOSET_STREAMS)
    items = list(data)
    assert len(items) == 975
    assert sorted({len(item["features"]) for item in items}) == [5, 6, 7, 9, 10]
    assert sum(len(item["features"]) == 10 for item in items) == 968
    counts = np.bincount(np.concatenate([item["labels"] for item in items]), minlength=527)
    assert ((counts > 0).sum(), (counts >= 10).sum(), (counts >= 20).sum()) == (289, 18, 11)
    assert counts.sum() / 975 == pytest.approx(2.015, abs=1e-3)
    assert read_vocabulary(folder / "audioset_527_class_labels_indices.csv") == vocabulary("audioset_527")
    assert torch.stack([item["features"].mean() for item in items]).abs().max() < 2
