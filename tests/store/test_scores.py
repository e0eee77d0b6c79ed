"""Score files: the round trip, what is refused, and label sets that differ."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reeltag.errors import StoreError
from reeltag.store.scores import Scores, require_same_labels


def made(num_videos=5, num_labels=3, **changes):
    generator = np.random.default_rng(0)
    fields = {
        "video_ids": [f"folder/ü {i}.mp4" for i in range(num_videos)],
        "values": generator.random((num_videos, num_labels), dtype=np.float32),
        "label_names": [f"label {i}|é" for i in range(num_labels)],
        "kind": "probability",
        "targets": generator.integers(2, size=(num_videos, num_labels)).astype(np.uint8),
        "ignore": generator.random((num_videos, num_labels)) < 0.2,
        "split": "val",
        "recipe_hash": "r" * 64,
        "weights_hash": "w" * 64,
        "manifest_hash": "m" * 64,
        "views": generator.random((num_videos, 2, num_labels), dtype=np.float32),
        "view_names": ["clip0", "clip1"],
    }
    return Scores(**{**fields, **changes})


def assert_same(first, second):
    for field in dataclasses.fields(Scores):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs


@pytest.mark.parametrize("num_videos", [0, 1, 5])
def test_round_trip(tmp_path, num_videos):
    scores = made(num_videos)
    scores.write(tmp_path / "scores" / "val.parquet")
    assert_same(Scores.read(tmp_path / "scores" / "val.parquet"), scores)
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["val.parquet"]


def test_round_trip_without_what_is_optional(tmp_path):
    scores = made(targets=None, ignore=None, views=None, view_names=[], kind="logit")
    scores.write(tmp_path / "test.parquet")
    assert_same(Scores.read(tmp_path / "test.parquet"), scores)


def test_any_parquet_reader_can_use_it(tmp_path):
    made().write(tmp_path / "val.parquet")
    table = pq.read_table(tmp_path / "val.parquet")
    assert table.column_names == ["video_id", "scores", "targets", "ignore", "views"]
    assert table["scores"][2].as_py() == pytest.approx(made().values[2].tolist())
    assert pq.ParquetFile(tmp_path / "val.parquet").metadata.row_group(0).column(1).compression == "ZSTD"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "val.parquet"
    made().write(path)
    before = path.read_bytes()

    def fail(_, where, **options):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        made(4).write(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.zeros((5, 4), np.float32)}, r"values must be \(videos, labels\) = \(5, 3\), got \(5, 4\)"),
        ({"values": np.full((5, 3), 1.5, np.float32)}, r"\[0, 1\], got 1.5 to 1.5"),
        ({"values": np.full((5, 3), np.nan, np.float32)}, "NaN"),
        ({"kind": "score"}, "logit, probability, got 'score'"),
        ({"video_ids": list("abcda")}, "video_ids holds 'a' more than once"),
        ({"label_names": list("xyx")}, "label_names holds 'x' more than once"),
        ({"view_names": ["one"]}, r"views must be \(5, 1, 3\), got \(5, 2, 3\)"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_files_that_are_no_score_files_are_store_errors(tmp_path):
    with pytest.raises(StoreError, match="does not exist; `reeltag evaluate` writes"):
        Scores.read(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(StoreError, match=r"text\.parquet is not a score file"):
        Scores.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="is not a score file"):
        Scores.read(tmp_path / "other.parquet")
    made().write(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="is not a score file"):
        Scores.read(tmp_path / "cut.parquet")
    table = pq.read_table(tmp_path / "other.parquet").replace_schema_metadata({b"reeltag.scores": b'{"version": 99}'})
    pq.write_table(table, tmp_path / "newer.parquet")
    with pytest.raises(StoreError, match="version 99; this reeltag reads 1"):
        Scores.read(tmp_path / "newer.parquet")


def test_probabilities_of_logits():
    scores = made(1, kind="logit", values=np.array([[-1000.0, 0.0, 2.0]], np.float32), views=None, view_names=[])
    np.testing.assert_allclose(scores.probabilities(), [[0, 0.5, 0.8807971]], rtol=1e-6)
    np.testing.assert_array_equal(made().probabilities(), made().values)


def test_rows_take_an_order_and_name_what_is_missing():
    scores = made()
    ids = [scores.video_ids[i] for i in (3, 0)]
    part = scores.rows(ids)
    assert part.video_ids == ids
    np.testing.assert_array_equal(part.values, scores.values[[3, 0]])
    np.testing.assert_array_equal(part.views, scores.views[[3, 0]])
    np.testing.assert_array_equal(part.targets, scores.targets[[3, 0]])
    with pytest.raises(StoreError, match=r"1 of 2 videos have no scores, first 'x\.mp4'"):
        scores.rows([ids[0], "x.mp4"])


def test_label_sets_that_differ_are_told_apart():
    plain = {"views": None, "view_names": []}
    first = made(label_names=list("abc"), **plain)
    require_same_labels(first, made(label_names=list("abc"), **plain))
    with pytest.raises(StoreError, match="column 1 is 'b' in the first and 'c' in the second"):
        require_same_labels(first, made(label_names=list("acb"), **plain))
    with pytest.raises(StoreError, match=r"\(3 and 6 labels\): only x has 'c'; only y has 'd', 'e', 'f' and 1 more"):
        require_same_labels(first, made(num_labels=6, label_names=list("abdefg"), **plain), names=("x", "y"))


def test_no_flipped_byte_is_read_as_another_score(tmp_path):
    path, scores = tmp_path / "val.parquet", made(200)
    scores.write(path)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            read = Scores.read(path)
        except StoreError:
            refused += 1
            continue
        np.testing.assert_array_equal(read.values, scores.values, err_msg=f"byte {at}")
        np.testing.assert_array_equal(read.targets, scores.targets, err_msg=f"byte {at}")
    assert refused > 100
