"""`reeltag flow`, called as a person calls it."""

import json
import sys

import pytest
import torch

from reeltag.data.flow_store import FlowStore
from reeltag.data.manifest import Manifest


@pytest.fixture(scope="module")
def two_clips(mini_manifest):
    few = Manifest.read(mini_manifest).take([0, 1])
    path = mini_manifest.parent / "two.parquet"
    few.write(path)
    return path


def test_a_pack_gets_flow_beside_it_and_a_second_call_keeps_it(call, mini_packed, tmp_path):
    out = tmp_path / "flow"
    report = json.loads(call("flow", mini_packed, "--out", out, "--fast", "--workers", 0, "--json"))
    assert (report["clips"], report["bad"], report["resumed"]) == (48, [], 0)
    store = FlowStore(out)
    assert (store.settings["method"], store.settings["bound_px"]) == ("dis", 20.0)
    assert "48 of them there before" in call("flow", mini_packed, "--out", out, "--fast", "--workers", 0)
    message = call("flow", mini_packed, "--out", out, "--fast", "--step", 2, code=2)
    assert message.startswith("error: ")
    assert "another manifest or other settings" in message


def test_tvl1_is_the_default_and_images_have_their_own_bound_and_rate(call, two_clips, tmp_path):
    options = ("--short-side-px", 24, "--workers", 0)
    call("flow", two_clips, "--out", tmp_path / "a", "--max-frames", 2, *options)
    assert FlowStore(tmp_path / "a").settings["method"] == "tvl1"
    call("flow", two_clips, "--out", tmp_path / "b", "--form", "image", "--fast", "--fps", 5, *options)
    call("flow", two_clips, "--out", tmp_path / "c", "--form", "image", "--fast", *options)
    b, c = FlowStore(tmp_path / "b"), FlowStore(tmp_path / "c")
    assert (b.settings["fps"], c.settings["fps"], c.settings["bound_px"]) == (5, 15, 40)
    assert b.fps(0) == pytest.approx(5, rel=0.1)
    assert c.flow(0, [0]).shape[1] == 3
    assert not c.flow(0, [0])[:, 2].any()


def test_bad_files_are_listed_and_the_command_ends_with_1(call, two_clips, tmp_path):
    manifest = Manifest.read(two_clips)
    (tmp_path / "bad.mp4").write_text("no video, but long enough to be looked at")
    paths = [str(manifest.video_path(0).absolute()), "bad.mp4"]
    Manifest.build(paths, [[0], [0]], ["x"], root=tmp_path).write(tmp_path / "m.parquet")
    out = call("flow", tmp_path / "m.parquet", "--out", tmp_path / "flow", "--fast", "--workers", 0, code=1)
    assert "flow of 1 clips" in out
    assert "1 unreadable" in out
    (line,) = map(json.loads, (tmp_path / "flow" / "bad_files.jsonl").read_text().splitlines())
    assert (line["path"], line["reason"]) == ("bad.mp4", "not_media")


def test_without_the_extra_one_line_names_it(call, two_clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for options in ((), ("--fast",)):
        message = call("flow", two_clips, "--out", tmp_path / "flow", *options, code=2)
        assert message.count("\n") == 1
        assert "pip install 'reeltag[flow]'" in message
    assert not (tmp_path / "flow").exists()


def test_raft_needs_weights_and_takes_a_file(call, mini_packed, two_clips, tmp_path):
    from torchvision.models import optical_flow

    where = ("--out", tmp_path / "flow")
    assert "--method raft needs --weights" in call("flow", two_clips, *where, "--method", "raft", code=2)
    assert "is not a file" in call("flow", two_clips, *where, "--weights", tmp_path / "none.pth", code=2)
    assert "leave them out" in call("flow", two_clips, *where, "--method", "dis", "--weights", "x.pth", code=2)
    assert "give one of the two" in call("flow", two_clips, *where, "--method", "tvl1", "--fast", code=2)
    torch.manual_seed(0)
    torch.save(optical_flow.raft_small().state_dict(), tmp_path / "w.pth")
    options = ("--max-frames", 1, "--short-side-px", 32, "--workers", 0, "--device", "cpu")
    call("flow", two_clips, *where, "--weights", tmp_path / "w.pth", *options)
    store = FlowStore(tmp_path / "flow")
    assert store.settings["method"] == "raft"
    assert store.num_frames(1) == 1
    message = call("flow", mini_packed, "--out", tmp_path / "other", "--fast", "--max-frames", 3, code=2)
    assert "packed frames are chosen already" in message
