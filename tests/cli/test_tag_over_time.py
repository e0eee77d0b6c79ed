"""`reeltag tag --timeline --explain`, called as a person calls it."""

import json

import pyarrow.parquet as pq
import pytest


@pytest.fixture
def videos(mini_manifest):
    return sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[:2]


def test_a_timeline_changes_no_tag_and_its_scores_are_stored(call, mini_run, videos, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"")
    plain = [json.loads(line) for line in call("tag", mini_run, *videos, "--json").splitlines()]
    words = ["tag", mini_run, videos[0], tmp_path / "bad.mp4", videos[1], "--timeline", "--window-s", 1, "--hop-s", 0.5]
    out = call(*words, "--json", "--out", tmp_path / "tags.parquet", code=1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[1]["error"]["reason"] == "empty"
    times = [[0.5 * k, 0.5 * k + 1] for k in range(5)]
    for line, expected in zip(lines[::2], plain, strict=True):
        found = line.pop("timeline")
        assert line == expected
        assert (found["window_s"], found["hop_s"], found["times_s"]) == (1, 0.5, times)
        assert all(0 <= s["start_s"] < s["end_s"] <= 3 and s["score"] <= s["max"] for s in found["segments"])
    table = pq.read_table(tmp_path / "tags.timeline.parquet")
    assert [row["start_s"] for row in table.to_pylist()] == [start for start, _ in times] * 2
    names = json.loads(table.schema.metadata[b"label_names"])
    scores = table["scores"].to_pylist()
    assert {len(row) for row in scores} == {len(names)} == {30}
    best = lines[0]["labels"][0]["label"]
    assert 0 < max(row[names.index(best)] for row in scores[:5]) <= 1
    assert len(pq.read_table(tmp_path / "tags.parquet")) == 3


def test_an_explanation_is_short_and_has_a_page(call, mini_run, videos, tmp_path):
    words = ["tag", mini_run, *videos, "--explain", "--explain-out", tmp_path / "why", "--top", 2]
    lines = [json.loads(line) for line in call(*words, "--json").splitlines()]
    again = [json.loads(line) for line in call(*words, "--json").splitlines()]
    assert lines == again
    for line, video in zip(lines, videos, strict=True):
        assert 1 <= len(line["explanation"]) <= 2
        one = line["explanation"][0]
        assert one["label"] == line["labels"][0]["label"]
        assert one["score"] == pytest.approx(line["labels"][0]["score"], abs=5e-3)
        assert len(one["time"]) == 8
        assert one["modalities"] == {}
        page = (tmp_path / "why" / f"{video.name}.html").read_text()
        assert one["label"] in page
        assert page.count("data:image/jpeg;base64,") == 8 * (1 + len(line["explanation"]))
        assert "http:" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--timeline", "--hop-s", "-1"], "--hop-s -1 must be above 0"),
        (["--timeline", "--window-s", "2", "--hop-s", "3"], "nothing would look at what lies between two windows"),
        (["--timeline", "--window-s", "0"], "--window-s 0 is no length of a window"),
        (["--timeline", "--min-s", "-2"], "--min-s -2 must be seconds, 0 or more"),
        (["--hop-s", "1"], "--hop-s 1.0 is for --timeline, which is not given"),
        (["--explain-method", "rise"], "--explain-method rise is for --explain"),
        (["--explain", "--explain-method", "lime"], "allowed: auto, grad_cam, occlusion, rise"),
    ],
)
def test_a_bad_call_is_one_line(call, mini_run, videos, words, message):
    complaint = call("tag", mini_run, videos[0], *words, code=2)
    assert message in complaint.replace("\n", " ")
