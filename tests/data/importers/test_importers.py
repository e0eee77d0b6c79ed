"""Every format: what it looks like on disk, that it is detected, and that a manifest survives it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reeltag.data.importers import IMPORTERS, detect_format, import_manifest
from reeltag.errors import ManifestError, UnknownName

LABELS = ["archery", "ball game", "crowd", "dog"]
STEM = st.text("abcXYZ019_-é ", min_size=1, max_size=8).map(lambda text: "v" + text.strip() + "z")


@st.composite
def clips(draw, min_labels=1, max_labels=3):
    """Rows (path, label indices) with unique paths; label names come from LABELS."""
    names = draw(st.lists(STEM, min_size=1, max_size=8, unique_by=str.lower))
    row = st.lists(st.integers(0, 3), min_size=min_labels, max_size=max_labels, unique=True).map(sorted)
    return [(f"{name}.mp4", draw(row)) for name in names]


def write(folder: Path, name: str, lines: list[str]) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def write_mmaction2(folder, rows):
    return write(folder, "list.txt", [f"{path} {' '.join(map(str, labels))}" for path, labels in rows])


def write_xtemporal(folder, rows):
    rows[0][1][:] = [0, 3]  # one clip with a comma tells the format from mmaction2
    return write(
        folder, "list.txt", [f"{path} 12{n} {','.join(map(str, labels))}" for n, (path, labels) in enumerate(rows)]
    )


def write_moments(folder, rows):
    return write(folder, "set.csv", [f"{path},{LABELS[labels[0]]},3,{n}" for n, (path, labels) in enumerate(rows)])


def write_multi_moments(folder, rows):
    return write(folder, "set.csv", [f"{path},{','.join(map(str, labels))}" for path, labels in rows])


def write_csv(folder, rows):
    return write(
        folder, "a.csv", ["file;tags;split", *(f"{p};{'|'.join(LABELS[i] for i in ls)};valid" for p, ls in rows)]
    )


def write_jsonl(folder, rows):
    return write(folder, "a.jsonl", [json.dumps({"video": p, "labels": [LABELS[i] for i in ls]}) for p, ls in rows])


def write_one_hot(folder, rows):
    cells = [f"{path},1,{','.join(str(int(i in labels)) for i in range(4))}" for path, labels in rows]
    return write(folder, "a.csv", [f"path,camera_id,{','.join(LABELS)}", *cells])


def write_reeltag(folder, rows):
    return write(folder, "m.csv", ["path,labels", *(f"{path},{'|'.join(LABELS[i] for i in ls)}" for path, ls in rows)])


def write_folder(folder, rows):
    for path, labels in rows:
        file = folder / "videos" / LABELS[labels[0]] / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder / "videos"


def write_ucf101(folder, rows):
    write(folder, "classInd.txt", [f"{n} {label}" for n, label in enumerate(LABELS, start=1)])
    lines = [(f"{LABELS[labels[0]]}/{path}", labels[0] + 1) for path, labels in rows]
    write(folder, "trainlist01.txt", [f"{path} {index}" for path, index in lines[1:]] or [""])
    write(folder, "testlist01.txt", [path for path, _ in lines[:1]])
    return folder


def write_kinetics(folder, rows):
    lines = [f"{LABELS[labels[0]]},{path[:-4]},{n},{n + 10},validate" for n, (path, labels) in enumerate(rows)]
    return write(folder, "k.csv", ["label,youtube_id,time_start,time_end,split", *lines])


WRITERS = {
    "mmaction2": (write_mmaction2, 3), "xtemporal": (write_xtemporal, 3), "moments": (write_moments, 1),
    "multi_moments": (write_multi_moments, 3), "table": (write_csv, 3), "table:jsonl": (write_jsonl, 3),
    "table:one_hot": (write_one_hot, 3), "reeltag": (write_reeltag, 3), "folder": (write_folder, 1),
    "ucf101": (write_ucf101, 1), "kinetics": (write_kinetics, 1),
}  # fmt: skip


def test_every_format_has_a_writer_here():
    assert {name.split(":")[0] for name in WRITERS} == set(IMPORTERS)


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(name, data, tmp_path_factory):
    writer, most = WRITERS[name]
    rows = data.draw(clips(max_labels=most))
    folder = tmp_path_factory.mktemp("format")
    source = writer(folder, rows)
    manifest, detection = import_manifest(source, labels=LABELS)
    assert detection.format == name.split(":")[0], detection
    assert manifest.label_names == tuple(LABELS)
    found = {Path(path).name: list(labels) for path, labels in zip(manifest.paths, manifest.labels, strict=True)}
    if name == "kinetics":  # its files are named after id and time
        rows = [(f"{path[:-4]}_{n:06d}_{n + 10:06d}.mp4", labels) for n, (path, labels) in enumerate(rows)]
    assert found == dict(rows)
    assert len(manifest) == len(rows)
    manifest.write(folder / "out" / "m.parquet")
    back, again = import_manifest(folder / "out" / "m.parquet")
    assert (back.hash, again.format) == (manifest.hash, "reeltag")


def test_mmaction2_path_with_spaces_and_numbers(tmp_path):
    source = write(tmp_path, "l.txt", ["my clip 3.mp4 1 2", "b 7/c.mp4\t0"])
    manifest, detection = import_manifest(source)
    assert manifest.paths == ("my clip 3.mp4", "b 7/c.mp4")
    assert manifest.labels == ((1, 2), (0,))
    assert manifest.label_names == ("0", "1", "2")
    assert str(detection) == "mmaction2: 2 of 2 lines are a path followed by integers"


def test_two_numbers_after_a_folder_are_frames_and_label_and_after_a_file_two_labels(tmp_path):
    frames = write(tmp_path, "f.txt", ["clips/a 120 3", "clips/b 90 1"])
    manifest, detection = import_manifest(frames)
    assert (detection.format, manifest.labels) == ("xtemporal", ((3,), (1,)))
    assert manifest.extra["num_frames"] == (120, 90)
    files = write(tmp_path, "g.txt", ["clips/a.mp4 120 3", "clips/b.mp4 90 1"])
    assert [detect_format(files).format, *detect_format(files).others] == ["mmaction2", ("xtemporal", 0.5)]
    assert import_manifest(files, format="xtemporal")[0].labels == ((3,), (1,))


def test_xtemporal_name_without_suffix_finds_its_video(tmp_path):
    (tmp_path / "a.webm").touch()
    manifest, _ = import_manifest(write(tmp_path, "f.txt", ["a 120 3,4", "b 90 1"]))
    assert manifest.paths == ("a.webm", "b")


def test_one_hot_keeps_ids_apart_and_reads_unknown_truth(tmp_path):
    source = write(
        tmp_path, "a.csv", ["path,split,camera_id,rain,dog,wind", "a.mp4,train,0,1,0,-1", "b.mp4,val,1,0,1,1"]
    )
    manifest, detection = import_manifest(source)
    assert manifest.label_names == ("rain", "dog", "wind")
    assert (manifest.labels, manifest.ignores) == (((0,), (1, 2)), ((2,), ()))
    assert manifest.splits == ("train", "val")
    assert manifest.extra == {"camera_id": ("0", "1")}
    assert "3 columns of 0 and 1 as labels" in detection.why


def test_table_names_the_columns_that_it_guessed(tmp_path):
    source = write(tmp_path, "a.tsv", ["Filename\tClass\tperson", "a.mp4\train, dog\tme", "b.mp4\tdog\tyou"])
    manifest, detection = import_manifest(source)
    assert str(detection) == "table: a csv with a header; 'Filename' as path; 'Class' as labels; labels split at ','"
    assert (manifest.label_names, manifest.labels) == (("dog", "rain"), ((0, 1), (0,)))
    assert manifest.extra == {"person": ("me", "you")}


def test_jsonl_with_times_and_numbers(tmp_path):
    rows = [{"video": "a.mp4", "start": 1, "end": 2.5, "label": 3}, {"video": "a.mp4", "start": 3, "label": [0, 1]}]
    manifest, _ = import_manifest(write(tmp_path, "a.jsonl", [json.dumps(row) for row in rows]))
    assert manifest.labels == ((3,), (0, 1))
    assert manifest.label_names == ("0", "1", "2", "3")
    assert manifest.video_ids == ("a@1-2.5", "a@3-")


def test_moments_keeps_the_votes(tmp_path):
    manifest, _ = import_manifest(write(tmp_path, "t.csv", ["rain/a.mp4,raining,3,1", "dog/b.mp4,barking,5,0"]))
    assert manifest.label_names == ("barking", "raining")
    assert (manifest.labels, manifest.extra["agree"], manifest.extra["disagree"]) == (((1,), (0,)), (3, 5), (1, 0))


def test_multi_moments_takes_the_names_of_its_vocabulary(tmp_path):
    manifest, _ = import_manifest(write(tmp_path, "t.csv", ["c/a.mp4,0,312", "c/b.mp4,1"]), labels="mmit_313")
    assert [manifest.label_names[i] for i in manifest.labels[0]] == ["crafting", "jogging"]
    with pytest.raises(ManifestError, match=r"line 2: label index 313 is not in 0..312"):
        import_manifest(write(tmp_path, "t.csv", ["c/a.mp4,0,312", "c/b.mp4,313"]), labels="mmit_313")


def test_kinetics_finds_trimmed_clips_and_marks_parts_of_whole_videos(tmp_path):
    lines = [
        "label,youtube_id,time_start,time_end,split",
        '"crowd",abc,12,22,train',
        "crowd,xyz,5,15,test",
        "dog,abc,40,50,train",
    ]
    for file in ("crowd/abc_000012_000022.mp4", "xyz.mp4"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    manifest, detection = import_manifest(write(tmp_path, "k.csv", lines))
    assert detection.format == "kinetics"
    assert manifest.paths == ("crowd/abc_000012_000022.mp4", "xyz.mp4", "dog/abc_000040_000050.mp4")
    assert manifest.start_s.tolist()[1:2] == [5.0]
    assert [str(value) for value in manifest.end_s] == ["nan", "15.0", "nan"]
    assert manifest.groups == ("abc", "xyz", "abc")
    assert manifest.video_ids[0] == "abc_000012_000022"


def test_ucf101_order_groups_and_splits(tmp_path):
    write(tmp_path, "classInd.txt", ["1 Zumba", "2 Archery"])
    write(tmp_path, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 2", "Zumba/v_Zumba_g09_c02.avi 1"])
    write(tmp_path, "testlist01.txt", ["Archery/v_Archery_g01_c01.avi"])
    write(tmp_path, "trainlist02.txt", ["Archery/v_Archery_g01_c01.avi 2"])
    manifest, detection = import_manifest(tmp_path)
    assert manifest.label_names == ("Zumba", "Archery")
    assert (manifest.labels, manifest.splits) == (((1,), (0,), (1,)), ("train", "train", "test"))
    assert manifest.groups == ("Archery_g08", "Zumba_g09", "Archery_g01")
    assert str(detection) == "ucf101: trainlist01.txt, testlist01.txt, the first split of 2"
    assert import_manifest(tmp_path / "trainlist02.txt")[0].splits == ("train",)
    write(tmp_path, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 1"])
    with pytest.raises(ManifestError, match=r"trainlist01.txt line 1: number 1 is not that of Archery"):
        import_manifest(tmp_path)


def test_folder_of_splits_and_its_limits(tmp_path):
    for file in (
        "train/rain/a.mp4",
        "Validation/dog/b.MKV",
        "train/dog/x/c.avi",
        "train/dog/.hidden.mp4",
        "train/dog/notes.txt",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    manifest, detection = import_manifest(tmp_path)
    assert str(detection) == "folder: 3 videos as split/label/video in 2 folders of labels"
    assert manifest.paths == ("Validation/dog/b.MKV", "train/dog/x/c.avi", "train/rain/a.mp4")
    assert manifest.splits == ("val", "train", "train")
    assert manifest.labels == ((0,), (0,), (1,))
    (tmp_path / "loose.mp4").touch()
    with pytest.raises(ManifestError, match=r"'loose.mp4' lies in no folder of a label"):
        import_manifest(tmp_path)


def test_labels_txt_beside_the_source_is_the_vocabulary(tmp_path):
    write(tmp_path, "labels.txt", LABELS)
    assert import_manifest(write(tmp_path, "l.txt", ["a.mp4 3"]))[0].label_names == tuple(LABELS)
    with pytest.raises(ManifestError, match=r"line 3: label 'doge' is not among the 4 labels. Did you mean 'dog'"):
        import_manifest(write(tmp_path, "a.csv", ["file,label", "a.mp4,dog", "b.mp4,doge"]))


@pytest.mark.parametrize("lines", [["hello"], ["{]"], ["a,b,c", "1,2,3"], [""], ["[" * 5000], ['{"a":' * 3000]])
def test_what_fits_no_format_lists_the_formats(tmp_path, lines):
    with pytest.raises(ManifestError, match=r"none of the known formats fits. Known: folder .*mmaction2.*ucf101"):
        import_manifest(write(tmp_path, "x.txt", lines))


def test_missing_source_and_unknown_format(tmp_path):
    with pytest.raises(ManifestError, match="no such file or folder"):
        import_manifest(tmp_path / "nothing")
    with pytest.raises(UnknownName, match="Did you mean 'mmaction2'"):
        import_manifest(tmp_path, format="mmaction")


@pytest.mark.parametrize(
    ("format", "line"),
    [("mmaction2", "a.mp4 x"), ("xtemporal", "a.mp4 3"), ("multi_moments", "a.mp4"), ("moments", "a.mp4,dog,3"),
     ("ucf101", "v.avi 1")],
)  # fmt: skip
def test_a_line_of_another_form_is_named(tmp_path, format, line):
    good = {
        "mmaction2": "a.mp4 1",
        "xtemporal": "a 9 1",
        "multi_moments": "a.mp4,1",
        "moments": "a.mp4,dog,3,0",
        "ucf101": "D/v.avi 1",
    }
    with pytest.raises(ManifestError, match="line 2: not "):
        import_manifest(write(tmp_path, "x.txt", [good[format], line]), format=format)


def test_hostile_rows_are_refused_with_their_lines(tmp_path):
    source = tmp_path / "escape.csv"
    source.write_bytes(
        b"path,labels\n../../../etc/passwd,1\n/etc/shadow,2\nhttp://127.0.0.1:18099/x.mp4,3\nfile:///etc/passwd,1\n"
        b'"new\nline.mp4",2\n\xff\xfe.mp4,1\n'
    )
    for labels in (None, ["a", "b", "c", "d"]):
        for format in (None, "table"):
            with pytest.raises(
                ManifestError, match=r"labels are numbers|line 2: .*line 3: .*line 4: .*line 5: path \'file"
            ):
                import_manifest(source, format=format, labels=labels)
