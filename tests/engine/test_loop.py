"""The loop: bad files at their place, stops that say why, and what a run folder holds afterwards."""

import json

import pytest

from reeltag.data.manifest import Manifest
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.errors import Diverged, ReeltagError, TooManyBadFiles
from reeltag.store.checkpoint import checkpoints_of, load_checkpoint
from reeltag.store.run import RunFolder


def train(recipe, manifest, out, *overrides, resume=False, workers=0):
    call = TrainCall(str(recipe), overrides, manifest, out, device="cpu", workers=workers, resume=resume)
    return train_recipe(call, 0, None)


@pytest.fixture
def with_bad_files(mini_manifest, tmp_path):
    """The clips of the small set, two of the training clips broken in different ways."""
    table = Manifest.read(mini_manifest)
    train_rows = [row for row, split in enumerate(table.splits) if split == "train"]
    lines = ["path,labels,video_id,split"]
    for row in range(len(table)):
        path = table.video_path(row)
        if row == train_rows[3]:
            path = tmp_path / "empty.mp4"
            path.write_bytes(b"")
        elif row == train_rows[7]:
            path = tmp_path / "text.mp4"
            path.write_text("not a video\n" * 50)
        names = "|".join(table.label_names[label] for label in table.labels[row])
        lines.append(f"{path},{names},{table.video_ids[row]},{table.splits[row]}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.txt").write_text("\n".join(table.label_names) + "\n")
    return tmp_path / "m.csv"


def test_bad_files_are_skipped_at_their_place_and_listed_once(with_bad_files, small_recipe, tmp_path):
    out = tmp_path / "run"
    train(small_recipe, with_bad_files, out, "train.epochs=2", "train.batch_size=8")
    lines = list(RunFolder.open(out).bad_file_lines())
    assert sorted(line["reason"] for line in lines) == ["empty", "not_media"]  # two epochs, each named once
    _, state = load_checkpoint(checkpoints_of(out / "checkpoints")[-1])
    assert state["step"] == 8  # 32 clips in batches of 8, twice: the bad ones took their places
    assert state["clips"] == 2 * (32 - 2)


def test_workers_change_nothing(with_bad_files, small_recipe, tmp_path):
    for workers in (0, 2):
        train(small_recipe, with_bad_files, tmp_path / str(workers), "train.epochs=1", workers=workers)
    one, two = (load_checkpoint(checkpoints_of(tmp_path / n / "checkpoints")[-1])[0]["model"] for n in ("0", "2"))
    assert all(bool((one[name] == two[name]).all()) for name in one)


def test_the_run_stops_above_max_bad(with_bad_files, small_recipe, tmp_path):
    with pytest.raises(TooManyBadFiles, match=r"2 of 32 training files cannot be read, data.max_bad=0.05 allows 1"):
        train(small_recipe, with_bad_files, tmp_path / "run", "data.max_bad=0.05")


def test_a_loss_that_is_not_finite_stops_the_run(mini_packed, small_recipe, tmp_path):
    overrides = ["train.optimizer=sgd", "train.lr=1e30", "train.clip_norm=null", "train.precision=fp32"]
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) at step 5, and 4 steps in a row .* lower train.lr"):
        train(small_recipe, mini_packed, tmp_path / "run", *overrides, "train.max_skipped=4")
    skipped = [line for line in RunFolder.open(tmp_path / "run").metric_lines() if "skipped" in line]
    assert [line["step"] for line in skipped] == [2, 3, 4, 5]
    assert [len(line["videos"]) for line in skipped] == [4] * 4


def test_what_a_run_folder_holds(mini_packed, small_recipe, tmp_path):
    out = tmp_path / "run"
    result = train(small_recipe, mini_packed, out, "train.epochs=5", "train.evaluate_every=1")
    run = RunFolder.open(out)
    assert run.recipe.train.epochs == 5
    assert len(run.label_names) == 30
    validated = [line["val"]["map_macro"] for line in run.metric_lines() if "val" in line]
    assert len(validated) == 5
    assert result["best"] == max(validated)
    kept = checkpoints_of(run.checkpoints)
    assert len(kept) <= 4
    best = 8 * (1 + validated.index(max(validated)))
    assert run.checkpoint("best").name == f"step_{best:08d}"
    assert run.checkpoint("last").name == "step_00000040"
    assert list(out.glob("tensorboard/events*"))


def test_resuming_a_finished_run_changes_nothing(mini_packed, small_recipe, tmp_path):
    out = tmp_path / "run"
    train(small_recipe, mini_packed, out)
    before = {path.name: path.read_bytes() for path in checkpoints_of(out / "checkpoints")[-1].iterdir()}
    train(small_recipe, mini_packed, out, resume=True)
    after = {path.name: path.read_bytes() for path in checkpoints_of(out / "checkpoints")[-1].iterdir()}
    assert before["model.safetensors"] == after["model.safetensors"]


def test_same_seed_same_weights_other_seed_others(mini_packed, small_recipe, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(small_recipe, mini_packed, tmp_path / name, f"train.seed={seed}", "train.epochs=1")
    a, b, c = (load_checkpoint(checkpoints_of(tmp_path / n / "checkpoints")[-1])[0]["model"] for n in "abc")
    assert all(bool((a[name] == b[name]).all()) for name in a)
    assert any(bool((a[name] != c[name]).any()) for name in a)


def test_a_manifest_without_splits_gets_one_and_says_so(mini_manifest, small_recipe, tmp_path, capsys):
    from rich.console import Console

    table = Manifest.read(mini_manifest)
    lines = ["path,labels"] + [
        f"{table.video_path(row)},{'|'.join(table.label_names[label] for label in table.labels[row])}"
        for row in range(len(table))
    ]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    console = Console(width=200)
    call = TrainCall(str(small_recipe), ("train.epochs=0.2",), tmp_path / "m.csv", tmp_path / "run", device="cpu")
    swaps = "data.swap_labels={}"  # labels that no clip carries are not in this manifest's vocabulary
    train_recipe(TrainCall(call.recipe, (*call.overrides, swaps), call.manifest, call.out, "cpu"), 0, console)
    assert "the manifest has no split: made one by iterative stratification" in capsys.readouterr().out


def test_balanced_labels_must_exist(mini_packed, small_recipe, tmp_path):
    with pytest.raises(ReeltagError, match=r"'motion_lef' is no label of this manifest. Did you mean 'motion_left'"):
        train(small_recipe, mini_packed, tmp_path / "r", "data.balance_labels=[motion_lef]")
    result = train(small_recipe, mini_packed, tmp_path / "r2", "data.balance_labels=[motion_left, motion_right]")
    assert json.loads(json.dumps(result))["steps"] == 16


def test_training_learns(mini_packed, small_recipe, tmp_path):
    train(small_recipe, mini_packed, tmp_path / "r", "train.epochs=30", "train.lr=0.005", "model.dropout=0")
    losses = [line["loss"] for line in RunFolder.open(tmp_path / "r").metric_lines() if "loss" in line]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
