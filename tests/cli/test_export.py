"""`reeltag export`, called as a person calls it."""

import json
import sys

import pytest


def test_export_checks_on_clips_and_names_an_unreadable_one(call, mini_run, mini_manifest, tmp_path):
    videos = sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[:2]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    names = json.loads((mini_run / "labels.json").read_text())
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n")
    rows = [f"{path},{names[0]},test" for path in (videos[0], tmp_path / "bad.mp4", videos[1])]
    (tmp_path / "m.csv").write_text("path,labels,split\n" + "\n".join(rows) + "\n")
    arguments = ("export", mini_run, "--format", "pt2", "--out", tmp_path / "t.pt2", "--check", "--split", "test")
    found = json.loads(call(*arguments, "--manifest", tmp_path / "m.csv", "--views", "2x1", "--json", code=1))
    assert found["num_bytes"] == (tmp_path / "t.pt2").stat().st_size
    assert found["inputs"][0] == {"name": "video", "dtype": "uint8", "shape": ["batch", "frames", 3, "height", "width"]}
    assert found["difference_of_logits"] < 1e-5
    checked = found["check"]
    assert (checked["num_videos"], checked["num_equal"], checked["num_decisions"]) == (2, 60, 60)
    assert checked["largest"] < 1e-5
    assert [line["reason"] for line in checked["bad"]] == ["not_media"]
    assert not checked["holds"]


@pytest.mark.slow
def test_without_clips_drawn_inputs_are_checked(call, mini_run, tmp_path):
    text = call("export", mini_run, "--out", tmp_path / "t.pt2", "--check", "--max", 4)
    assert "check on 16 drawn inputs holds" in text
    assert "present labels agree in 480 of 480" in text
    assert "ms" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "tflite", "--out", "t.onnx"), ("'tflite'", "onnx, pt2")),
        (("--out", "t.pb"), ("t.pb", "'.pb'", ".onnx or .pt2")),
        (("--format", "pt2", "--out", "t.onnx"), ("t.onnx", "let it end in .pt2")),
        (("--out", "."), ("ends in nothing", ".onnx or .pt2")),
        (("--out", "t.pt2", "--manifest", "m.csv"), ("m.csv", "--check")),
        (("--out", "t.pt2", "--views", "1x2"), ("'1x2'", "CLIPSxCROPS")),
        (("--out", "t.pt2", "--check", "--manifest", "none.csv"), ("none.csv",)),
    ],
)
def test_bad_calls_are_one_line_and_leave_nothing(call, mini_run, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    error = call("export", mini_run, *options, code=2)
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
    assert not list(tmp_path.iterdir())


def test_a_missing_model_and_a_missing_library_are_said(call, mini_run, tmp_path, monkeypatch):
    assert "does not exist" in call("export", tmp_path / "none", "--out", tmp_path / "t.pt2", code=2)
    assert "is an ensemble" in call("export", "all.json", "--out", tmp_path / "t.pt2", code=2)
    (tmp_path / "folder.pt2").mkdir()
    assert "is a folder" in call("export", mini_run, "--out", tmp_path / "folder.pt2", code=2)
    (tmp_path / "folder.pt2").rmdir()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = call("export", mini_run, "--out", tmp_path / "t.onnx", code=2)
    assert error.count("\n") == 1
    assert "needs onnxscript, which is missing: pip install 'reeltag[export]'" in error
    assert not list(tmp_path.iterdir())
