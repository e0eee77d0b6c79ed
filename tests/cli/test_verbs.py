"""The verbs, called as a person calls them, on small real files."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest


def test_evaluate_prints_and_writes_every_metric(call, mini_run, mini_packed):
    found = json.loads(call("evaluate", mini_run, "--manifest", mini_packed, "--split", "test", "--json"))
    assert {"map_macro", "map_micro", "map_samples", "map_weighted", "gap", "gap_at_20", "hit_at_1", "top_5"} <= set(
        found["values"]
    )
    assert found["num_videos"] == 8
    assert len(found["per_label"]) == 30
    assert json.loads((mini_run / "results.json").read_text()) == found
    table = pq.read_table(mini_run / "scores" / "test.parquet")
    assert table.num_rows == 8


def test_evaluate_files_and_shards_agree(call, mini_run, mini_manifest, mini_packed, tmp_path):
    """Decoding the file and reading the packed frames differ by one resize alone, so scores are near but not equal."""
    for name, source in (("files", mini_manifest), ("packed", mini_packed)):
        call("evaluate", mini_run, "--manifest", source, "--split", "test", "--out", tmp_path / name)
    from reeltag.store.scores import Scores

    files, packed = (Scores.read(tmp_path / name / "scores" / "test.parquet") for name in ("files", "packed"))
    assert files.video_ids == packed.video_ids
    assert abs(files.values - packed.values).max() < 1e-6  # both paths resize the same decoded pixels


def test_tag_gives_one_line_a_video_and_goes_on_after_a_bad_one(call, mini_run, mini_manifest, tmp_path):
    good = sorted(mini_manifest.parent.glob("videos/test_*.mp4"))[:2]
    (tmp_path / "bad.mp4").write_bytes(b"")
    out = call(
        "tag", mini_run, good[0], tmp_path / "bad.mp4", good[1], "--json", "--out", tmp_path / "t.parquet", code=1
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["video"] for line in lines] == [str(good[0]), str(tmp_path / "bad.mp4"), str(good[1])]
    assert lines[1]["error"]["reason"] == "empty"
    scores = [row["score"] for row in lines[0]["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 30
    assert all(row["present"] == (row["score"] >= row["threshold"]) for row in lines[0]["labels"])
    assert lines[0]["duration_s"] == pytest.approx(3.0, abs=0.1)
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["error_reason"] for row in table] == [None, "empty", None]


def test_tag_of_a_folder_equals_evaluate(call, mini_run, mini_manifest, tmp_path):
    from reeltag.store.scores import Scores

    call("evaluate", mini_run, "--manifest", mini_manifest, "--split", "test", "--out", tmp_path)
    scores = Scores.read(tmp_path / "scores" / "test.parquet")
    video = mini_manifest.parent / "videos" / f"{scores.video_ids[0]}.mp4"
    (line,) = [json.loads(text) for text in call("tag", mini_run, video, "--json").splitlines()]
    by_label = {row["label"]: row["score"] for row in line["labels"]}
    # One video alone and in a batch sum in another order, in bf16 where the hardware has it.
    for name, value in zip(scores.label_names, scores.values[0], strict=True):
        assert by_label[name] == pytest.approx(float(value), abs=5e-3)


def test_train_seeds_then_compare_and_report(call, small_recipe, mini_packed, tmp_path):
    for name, rate in (("a", 0.01), ("b", 0.0001)):
        call("train", small_recipe, f"train.lr={rate}", "train.epochs=1", "--manifest", mini_packed,
             "--out", tmp_path / name, "--seeds", 2)  # fmt: skip
        for seed in range(2):
            call("evaluate", tmp_path / name / f"seed{seed}", "--manifest", mini_packed)
    found = json.loads(call("compare", tmp_path / "a", tmp_path / "b", "--json"))
    assert [(group["name"], group["num_seeds"]) for group in found["groups"]] == [("a", 2), ("b", 2)]
    call("report", tmp_path / "a" / "seed0", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "map_macro" in page
    assert "data:image/jpeg;base64," in page  # pictures of the clips, from the run's own manifest
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_dry_run_counts_and_trains_nothing(call, mini_packed, tmp_path):
    found = json.loads(
        call("train", "demo/tsm_mini", "--manifest", mini_packed, "--out", tmp_path / "r", "--dry-run", "--json")
    )
    # By hand, per 64 px frame: stem 32*32*32*75, blocks 2*16*16*32*288, 8*8*64*(288+576+32), 8*8*128*(576+1152+64), and
    # the classifier 128*30; eight frames.
    frame = (
        32 * 32 * 32 * 75
        + 2 * 16 * 16 * 32 * 288
        + 64 * 64 * (288 + 576 + 32)
        + 64 * 128 * (576 + 1152 + 64)
        + 128 * 30
    )
    assert found["gmacs_per_clip"] == pytest.approx(8 * frame / 1e9, abs=1e-3)
    assert found["train_clips"] == 32
    assert not (tmp_path / "r").exists()


def test_data_verbs(call, mini_manifest, tmp_path):
    by_label = tmp_path / "by_label"
    for label in ("cat", "dog"):
        (by_label / label).mkdir(parents=True)
        for index, video in enumerate(sorted(mini_manifest.parent.glob("videos/*.mp4"))[: 10 if label == "cat" else 5]):
            (by_label / label / f"{index}.mp4").write_bytes(video.read_bytes() + label.encode())
    found = json.loads(call("data", "import", by_label, "--out", tmp_path / "m.csv", "--json"))
    assert (found["clips"], found["labels"]) == (15, 2)
    splits = json.loads(call("data", "split", tmp_path / "m.csv", "--val", 0.2, "--test", 0.2, "--json"))["splits"]
    assert sum(splits.values()) == 15
    audit = json.loads(call("data", "check", tmp_path / "m.csv", "--json"))
    assert audit["duplicates"] or audit["near_duplicates"]  # the same pictures under both labels
    packed = json.loads(
        call("data", "pack", tmp_path / "m.csv", "--out", tmp_path / "p", "--short-side-px", 32, "--json")
    )
    assert packed["clips"] == 15
    assert "m.csv" in call("new", tmp_path / "project") or (tmp_path / "project" / "recipe.yaml").is_file()


def test_list_and_help(call):
    assert "tsm_<backbone>" in call("list", "models").split()
    assert "resnet50" in call("list", "backbones", "resnet50").split()
    assert "map_macro" in call("list", "metrics").split()
    assert "demo/tsm_mini" in call("list", "recipes").split()
    assert {"decode", "metrics", "calibration"} <= set(call("list", "benchmarks").split())
    assert "`reeltag list benchmarks` shows all" in call("bench", "decoed", code=2)
    assert json.loads(call("list", "losses", "b*", "--long", "--json"))[0]["name"] == "bce"
    assert "Example: reeltag train" in call("train", "--help")


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupt_saves_ends_with_130_and_says_how_to_go_on(small_recipe, mini_packed, tmp_path, workers):
    out = tmp_path / "r"
    arguments = ["train", str(small_recipe), "train.epochs=5000", "--manifest", str(mini_packed), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "reeltag.cli", *arguments, "--workers", str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's workers as well
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    found = re.search(r"interrupted at step (\d+) and saved", err)
    assert found, err
    assert "--resume goes on" in err
    assert (out / "checkpoints" / f"step_{int(found[1]):08d}" / "state.json").is_file()
