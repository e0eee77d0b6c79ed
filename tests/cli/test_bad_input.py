"""Bad input: one line with the value, what is allowed and the next step, and exit code 2."""

import re

import pytest

from reeltag.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["reeltag", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return run


def refused(result, *words):
    code, _, err = result
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    for word in words:
        assert re.search(word, lines[0]), lines[0]


def test_unknown_recipe_key(call, mini_packed, tmp_path):
    refused(
        call("train", "demo/tsn_mini", "train.epochz=1", "--manifest", mini_packed, "--out", tmp_path / "r"),
        "train.epochz",
        "Did you mean 'epochs'",
        "Allowed here: ",
    )
    assert not (tmp_path / "r").exists()


def test_unknown_recipe(call, mini_packed):
    refused(call("train", "demo/tsn_mimi", "--manifest", mini_packed), "demo/tsn_mimi", "Did you mean", "list recipes")


def test_zero_frames(call, mini_packed):
    refused(
        call("train", "demo/tsn_mini", "data.num_frames=0", "--manifest", mini_packed),
        r"data.num_frames: .*greater than or equal to 1, not 0",
    )


def test_label_that_is_not_in_the_vocabulary(call, tmp_path):
    (tmp_path / "m.csv").write_text("path,labels\na.mp4,dog\nb.mp4,dgo\n")
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    refused(call("train", "demo/tsn_mini", "--manifest", tmp_path / "m.csv"), "dgo", "dog", "line 3")


def test_empty_and_missing_manifest(call, tmp_path):
    (tmp_path / "empty.csv").write_text("path,labels\n")
    refused(call("train", "demo/tsn_mini", "--manifest", tmp_path / "empty.csv"), "empty.csv", "no clips|at least one")
    refused(call("train", "demo/tsn_mini", "--manifest", tmp_path / "none.csv"), "none.csv", "no such|does not exist")
    refused(call("train", "demo/tsn_mini"), "--manifest")


def test_missing_model(call, mini_packed, tmp_path):
    refused(
        call("evaluate", tmp_path / "nothing", "--manifest", mini_packed), "nothing does not exist", "reeltag train"
    )
    refused(call("tag", tmp_path / "nothing", "a.mp4"), "does not exist")
    (tmp_path / "nothing").mkdir()
    refused(call("evaluate", tmp_path / "nothing", "--manifest", mini_packed), "is empty", "reeltag train RECIPE")


def test_resume_of_an_empty_folder(call, mini_packed, tmp_path):
    (tmp_path / "run").mkdir()
    refused(
        call("train", "demo/tsn_mini", "--manifest", mini_packed, "--out", tmp_path / "run", "--resume"),
        "is empty",
        "no recipe.yaml",
    )
    refused(call("train", "demo/tsn_mini", "--manifest", mini_packed, "--resume"), "--resume needs --out")


def test_a_run_is_not_overwritten(call, mini_packed, mini_run, small_recipe):
    before = (mini_run / "metrics.jsonl").read_bytes()
    refused(
        call("train", small_recipe, "--manifest", mini_packed, "--out", mini_run), "already holds a run", "--resume"
    )
    assert (mini_run / "metrics.jsonl").read_bytes() == before


def test_checkpoint_of_another_label_set(call, mini_run, mini_manifest, tmp_path):
    video = next(mini_manifest.parent.glob("videos/*.mp4"))
    (tmp_path / "m.csv").write_text(f"path,labels,split\n{video},dog,val\n")
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    refused(
        call("evaluate", mini_run, "--manifest", tmp_path / "m.csv"), "knows 30 labels", "the manifest 2", "dog, cat"
    )


def test_resume_with_another_recipe(call, mini_run, mini_packed):
    refused(
        call("train", "demo/tsn_mini", "--manifest", mini_packed, "--out", mini_run, "--resume"),
        "started with another recipe",
    )


def test_views_devices_and_options(call, mini_run, mini_packed):
    refused(call("evaluate", mini_run, "--manifest", mini_packed, "--views", "3x2"), "'3x2'", "10x3")
    refused(call("evaluate", mini_run, "--manifest", mini_packed, "--device", "gpu9"), "gpu9", "auto, cpu")
    refused(call("evaluate", mini_run, "--manifest", mini_packed, "--split", "dev"), "'dev'", "'test', 'train', 'val'")
    refused(
        call("evaluate", mini_run, "--manifest", mini_packed, "--checkpoint", "first"), "'first'", "'last' or 'best'"
    )
    refused(call("train", "demo/tsn_mini", "model.fraction=0.2", "--manifest", mini_packed), "no option 'fraction'")
    assert call("train")[0] == 2
    assert call("list", "modles")[0] == 2
