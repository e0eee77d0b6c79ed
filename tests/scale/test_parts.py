"""A call that was ended goes on where it was, with either engine; its parts are those of the model that made them."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reeltag.inference.any_tagger import TaggerCall, facts_of
from reeltag.store.tag_parts import TagParts, stamp_of

MARK = 0.987654


def facts(run, top="all"):
    return {**facts_of(TaggerCall(str(run)).load("cpu")), "--top": top}


def leave_parts(run, out, lines):
    """Leave what a killed call leaves: lines whose best score is a mark, so that nobody can have made them again."""
    with TagParts(out, facts(run)) as parts:
        for line in lines:
            marked = json.loads(json.dumps(line))
            if "labels" in marked:
                marked["labels"][0]["score"] = MARK
            parts.add(stamp_of(line["video"]), marked)


def check_going_on(call, lines_of, run, videos, tmp_path, *engine):
    plain = lines_of(call("tag", run, *videos, "--json", code=1))
    out = tmp_path / "tags.parquet"
    changed = tmp_path / "changed.mp4"
    shutil.copy(videos[0], changed)
    leave_parts(run, out, [plain[2], plain[1], {**plain[0], "video": str(changed)}])
    shutil.copy(videos[3], changed)  # another file by the same name
    found = lines_of(call("tag", run, *videos, changed, "--json", "--out", out, *engine, code=1))
    # Row 4 is the same file as row 2; row 1 is the unreadable one.
    assert [line.get("labels", [{"score": 0}])[0]["score"] == MARK for line in found] == [
        row in (2, 4) for row in range(7)
    ]
    assert found[:2] + found[3:4] + found[5:6] == plain[:2] + plain[3:4] + plain[5:6]
    assert {**found[6], "video": ""} == {**plain[3], "video": ""}
    assert pq.read_table(out)["scores"].to_pylist()[2][0] == pytest.approx(MARK, abs=1e-6)
    assert not Path(f"{out}.parts").exists()


def test_here_it_goes_on(call, lines_of, mini_run, videos, tmp_path):
    check_going_on(call, lines_of, mini_run, videos, tmp_path)


def test_on_ray_it_goes_on(own_ray, call, lines_of, mini_run, videos, tmp_path):
    check_going_on(call, lines_of, mini_run, videos, tmp_path, "--engine", "ray")


def test_parts_of_another_model_or_top_are_refused_and_stay(call, mini_run, videos, tmp_path):
    out = tmp_path / "tags.parquet"
    with TagParts(out, {**facts(mini_run), "weights": "0" * 64}) as parts:
        parts.add(None, {"video": "a.mp4"})
    kept = {path.name: path.read_bytes() for path in parts.folder.iterdir()}
    assert "holds tags of an unfinished call with other weights (000000000000, now " in call(
        "tag", mini_run, videos[0], "--out", out, code=2
    )
    assert {path.name: path.read_bytes() for path in parts.folder.iterdir()} == kept
    assert len(kept) == 2
    other = tmp_path / "top.parquet"
    leave_parts(mini_run, other, [])
    assert "with other --top (all, now 2)" in call("tag", mini_run, videos[0], "--out", other, "--top", 2, code=2)


def test_two_calls_do_not_write_to_one_folder(call, mini_run, videos, tmp_path):
    out = tmp_path / "tags.parquet"
    with TagParts(out, facts(mini_run)):
        assert "another process is writing tags" in call("tag", mini_run, videos[0], "--out", out, code=2)


def test_a_damaged_part_is_named(call, mini_run, videos, tmp_path):
    out = tmp_path / "tags.parquet"
    leave_parts(mini_run, out, [])
    (tmp_path / "tags.parquet.parts" / "part-000000.jsonl").write_text('{"stamp": null, "li')
    assert "part-000000.jsonl is damaged; remove it" in call("tag", mini_run, videos[0], "--out", out, code=2)
