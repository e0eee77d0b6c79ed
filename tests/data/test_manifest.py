import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltag.data.manifest import Manifest
from reeltag.errors import ManifestError

ODD_NAMES = [
    "spaces in name.mp4", "vidéo_日本語_🎬.mp4", "-leading-dash.mp4", "new\nline.mp4", "car\rriage.mp4",
    "quote'and\"double.mp4", "$(touch pwned).mp4", "semi;colon&amp.mp4", "percent_%d_%s.mp4", "weird:colon.mp4",
    "tab\tand\\backslash.mp4", "no_extension", "=cmd|csv.mp4", 'comma,"q".mp4', ".hidden.mp4", "trailing_dot.mp4.",
    "é_nfc.mp4", "é_nfd.mp4", "x" * 251 + ".mp4", "a.tar.mp4", "con.mp4", "..two.mp4",
    os.fsdecode(b"not_utf8_\xff\xfe.mp4"),
]  # fmt: skip


def build(root: Path, paths: list[str], **columns) -> Manifest:
    return Manifest.build(paths, [[n % 2] for n in range(len(paths))], ["a", "b"], root=root, **columns)


def same(left: Manifest, right: Manifest) -> None:
    for name in ("paths", "labels", "label_names", "video_ids", "splits", "groups", "ignores"):
        assert getattr(left, name) == getattr(right, name), name
    for name in ("start_s", "end_s", "weights"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert dict(left.extra) == dict(right.extra)
    assert left.hash == right.hash


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_column_survives_the_round_trip(manifest, tmp_path, suffix):
    manifest.write(tmp_path / f"m{suffix}")
    assert (tmp_path / "labels.txt").read_text() == "rowing\ndog barking\nrain, heavy\ncrowd\n"
    same(Manifest.read(tmp_path / f"m{suffix}"), manifest)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.txt", f"m{suffix}"]  # no temporary file


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_odd_names_survive_the_round_trip(tmp_path, suffix):
    written = build(tmp_path, ODD_NAMES)
    written.write(tmp_path / f"m{suffix}")
    same(Manifest.read(tmp_path / f"m{suffix}"), written)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and ":" not in name
)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True), suffix=st.sampled_from([".csv", ".parquet"]))
def test_any_file_name_survives_the_round_trip(tmp_path_factory, names, suffix):
    folder = tmp_path_factory.mktemp("names")
    written = build(folder, names, video_ids=[str(n) for n in range(len(names))])
    written.write(folder / f"m{suffix}")
    same(Manifest.read(folder / f"m{suffix}"), written)


def test_targets_and_ignore_mask_have_their_exact_cells(manifest):
    assert manifest.targets().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert manifest.targets().dtype == np.float32
    assert manifest.ignore_mask().tolist() == [
        [False, True, False, False],
        [False] * 4,
        [True, False, False, True],
        [False] * 4,
    ]
    assert not replace(manifest, ignores=None).ignore_mask().any()


def test_select_keeps_rows_and_their_columns(manifest):
    train = manifest.select("train")
    assert (train.paths, train.labels, train.groups) == (("a.mp4", "sub/b.mp4"), ((0, 2), (1,)), ("g1", "g1"))
    assert train.weights.tolist() == [1.0, pytest.approx(0.1)]
    assert train.extra == {"camera": ("1", "2")}
    assert manifest.split_counts == {"test": 1, "train": 2, "val": 1}
    with pytest.raises(ManifestError, match=r"split 'vall'.*Did you mean 'val'.*It has test, train, val"):
        manifest.select("vall")
    with pytest.raises(ManifestError, match="reeltag data split"):
        replace(manifest, splits=None).select("val")


def test_hash_sees_content_and_not_the_place(manifest, tmp_path):
    moved = replace(
        manifest, root=tmp_path / "elsewhere", paths=tuple("x/" + path for path in manifest.paths), extra={}
    )
    assert moved.hash == manifest.hash
    for change in (
        {"labels": ((0, 2), (1,), (), (3,))},
        {"label_names": ("rowing", "dog", "rain, heavy", "crowd")},
        {"splits": ("train", "train", "val", "val")},
        {"groups": None},
        {"start_s": None},
        {"weights": None},
        {"ignores": None},
        {"video_ids": ("1", "2", "3", "4")},
    ):
        assert replace(manifest, **change).hash != manifest.hash, change


def test_default_ids_are_unique_and_name_the_part(tmp_path):
    nan = float("nan")
    made = build(
        tmp_path, ["./a.mp4", "b/a.mp4", "c.mp4", "c.avi", "d.mp4", "d.mp4", "d.mp4"],
        start_s=[nan, nan, nan, nan, 0, 2.5, 5], end_s=[nan, nan, nan, nan, 2.5, 5, nan],
    )  # fmt: skip
    assert made.video_ids == ("a", "b/a", "c.mp4", "c.avi", "d@0-2.5", "d@2.5-5", "d@5-")


def test_paths_become_relative_to_where_the_manifest_is_written(tmp_path):
    videos, other = tmp_path / "data" / "videos", tmp_path / "runs"
    made = build(videos, ["a.mp4", "sub/../b.mp4", str(tmp_path / "c.mp4")])
    made.write(tmp_path / "data" / "m.csv")
    back = Manifest.read(tmp_path / "data" / "m.csv")
    assert back.paths == ("videos/a.mp4", "videos/b.mp4", str(tmp_path / "c.mp4"))
    assert [back.video_path(n) for n in (0, 2)] == [videos / "a.mp4", tmp_path / "c.mp4"]
    assert back.hash == made.hash
    made.write(other / "m.parquet")
    assert Manifest.read(other / "m.parquet").paths[0] == str(videos / "a.mp4")


def write_csv(folder: Path, text: bytes | str, labels: str | None = None) -> Path:
    (folder / "m.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    if labels:
        (folder / "labels.txt").write_text(labels)
    return folder / "m.csv"


def test_indices_need_a_vocabulary_and_names_win_over_numbers(tmp_path):
    with pytest.raises(ManifestError, match="the labels are numbers"):
        Manifest.read(write_csv(tmp_path, "path,labels\na.mp4,0|2\n"))
    path = write_csv(tmp_path, "path,labels\na.mp4,0|2\nb.mp4,dog|1\nc.mp4,\n", labels="cat\ndog\n0\n")
    assert Manifest.read(path).labels == ((2,), (1,), ())


def test_without_labels_txt_the_vocabulary_is_sorted(tmp_path):
    read = Manifest.read(write_csv(tmp_path, "\ufeffpath,labels\nz.mp4,rain | dog|\n a.mp4,cat\n"))
    assert (read.label_names, read.labels) == (("cat", "dog", "rain"), ((1, 2), (0,)))
    assert read.paths == ("z.mp4", " a.mp4")  # the space is part of the file name
    assert Manifest.read(tmp_path / "m.csv", labels=["dog", "rain", "x", "cat"]).labels == ((0, 1), (3,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("path,labels\n", "no clips"),
        ("file,labels\na,b\n", r"no column 'path'.*It has 'file', 'labels'.*reeltag data import"),
        ("path,label\na,b\n", r"no column 'labels'. Did you mean 'label'"),
        ("path,labels\na.mp4,rowin\n", r"line 2: label 'rowin' is not among the 2 labels. Did you mean 'rowing'"),
        ("path,labels\na.mp4,rowing\n\nb.mp4,-1\n", r"line 4: label index -1 is not in 0..1"),
        ("path,labels\na.mp4,2\n", r"line 2: label index 2 is not in 0..1"),
        ("path,labels\na.mp4\n", r"line 2: 1 cells for the 2 columns path, labels"),
        ("path,labels,path\na.mp4,rain,x\n", "two columns have one name"),
        ("path,labels\na.mp4,rain\n\"new\nline\",rain\na.mp4,rain\n", r"line 5: video_id 'a' is that of line 2 too"),
        ("path,labels,video_id\na.mp4,rain,1\nb.mp4,rain,1\n", r"line 3: video_id '1'"),
        ("path,labels,weight\na.mp4,rain,heavy\n", r"line 2: weight 'heavy' is not a number"),
        ("path,labels,weight\na.mp4,rain,-1\n", r"line 2: weight -1.0 must be >= 0"),
        ("path,labels,start_s,end_s\na.mp4,rain,2,1\n", r"line 2: end_s 1.0 must be above start_s 2.0"),
        ("path,labels,start_s\na.mp4,rain,-2\n", r"line 2: start_s -2.0"),
        ("path,labels\n../a.mp4,rain\n", r"line 2: path '../a.mp4' leaves"),
        ("path,labels\nx/../../a.mp4,rain\n", r"line 2: path 'x/../../a.mp4' leaves"),
        ("path,labels\n/etc/shadow,rain\n", r"line 2: path '/etc/shadow' lies in a folder of the operating system"),
        ("path,labels\n/home/../etc/shadow,rain\n", "operating system"),
        ("path,labels\nhttp://127.0.0.1/a.mp4,rain\n", r"line 2: path 'http://127.0.0.1/a.mp4' is an address"),
        ("path,labels\nFILE:/etc/passwd,rain\n", "is an address"),
        ("path,labels\n,rain\n", "is not a file name"),
    ],
)  # fmt: skip
def test_bad_manifests_are_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.read(write_csv(tmp_path, text, labels="rowing\nrain\n"))


def test_many_problems_are_listed_up_to_five(tmp_path):
    text = "path,labels\n" + "".join(f"../{n}.mp4,rain\n" for n in range(7))
    with pytest.raises(ManifestError, match=r"line 2.*line 6: [^;]*; and 2 more$"):
        Manifest.read(write_csv(tmp_path, text))


def test_a_trusted_root_is_the_only_folder_that_paths_may_name(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    path = write_csv(folder, f"path,labels\n../videos/a.mp4,rain\n{tmp_path}/videos/b.mp4,rain\n")
    with pytest.raises(ManifestError, match=r"line 2: path '../videos/a.mp4' leaves"):
        Manifest.read(path)
    assert len(Manifest.read(path, root=tmp_path / "videos")) == 2
    with pytest.raises(ManifestError, match=r"line 2.*line 3"):
        Manifest.read(path, root=folder)
    Manifest.read(path, root=tmp_path).write(folder / "m.parquet")  # `..` is not written again
    assert Manifest.read(folder / "m.parquet").paths == (f"{tmp_path}/videos/a.mp4", f"{tmp_path}/videos/b.mp4")


def test_missing_and_wrong_files_are_named(tmp_path):
    with pytest.raises(ManifestError, match=r"no such manifest; `reeltag data import"):
        Manifest.read(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ManifestError, match="not a parquet file"):
        Manifest.read(tmp_path / "m.parquet")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"\.parquet or \.csv"):
        Manifest.read(tmp_path / "m.json")


def test_labels_of_another_manifest_are_not_overwritten(manifest, tmp_path):
    manifest.write(tmp_path / "one.csv")
    with pytest.raises(ManifestError, match=r"labels.txt has other labels"):
        build(tmp_path, ["a.mp4"]).write(tmp_path / "two.csv")
    build(tmp_path, ["a.mp4"]).write(tmp_path / "one.csv")  # replaces the manifest that the labels belonged to
    assert Manifest.read(tmp_path / "one.csv").label_names == ("a", "b")


def test_parquet_holds_names_that_other_tools_can_read(manifest, tmp_path):
    manifest.write(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet").to_pydict()
    assert table["labels"] == [["rowing", "rain, heavy"], ["dog barking"], [], ["rowing", "crowd"]]
    assert table["path"] == ["a.mp4", "sub/b.mp4", "c.avi", "d.mp4"]
    assert table["start_s"] == [0.5, None, 0.0, 1.0]
    manifest.write(tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["labels"] == "rowing|rain, heavy"


def test_a_manifest_without_labels_is_read_only_when_asked(tmp_path):
    path = write_csv(tmp_path, "path\na.mp4\n")
    with pytest.raises(ManifestError, match="no column 'labels'"):
        Manifest.read(path)
    assert Manifest.read(path, needs_labels=False).targets().shape == (1, 0)


@pytest.mark.slow
def test_hostile_and_odd_names_of_the_zoo(zoo_script, tmp_path):
    subprocess.run([sys.executable, zoo_script, tmp_path / "zoo"], check=False, capture_output=True, cwd=tmp_path)
    for labels in (None, ["zero", "one", "two", "three"]):
        with pytest.raises(ManifestError, match=r"manifest_escape.csv, line 8: 1 cells for the 2 columns path, labels"):
            Manifest.read(tmp_path / "zoo" / "shards" / "manifest_escape.csv", labels=labels)
    names = sorted(os.listdir(tmp_path / "zoo" / "names"))
    assert len(names) == 24
    written = build(tmp_path / "zoo" / "names", names)
    for suffix in (".csv", ".parquet"):
        written.write(tmp_path / "zoo" / f"m{suffix}")
        back = Manifest.read(tmp_path / "zoo" / f"m{suffix}")
        assert all(back.video_path(row).is_file() for row in range(24))
        assert back.hash == written.hash
