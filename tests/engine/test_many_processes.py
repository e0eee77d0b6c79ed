"""Training on several processes is training on one: the same losses, checkpoints, bad files and validation."""

import itertools
import os
import shutil

import numpy as np
import pytest
import torch

from reeltag.data.manifest import Manifest
from reeltag.engine.global_batch import loss_of_all
from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.errors import RecipeError, TooManyBadFiles
from reeltag.losses import LOSSES
from reeltag.processes import current, join
from reeltag.store.checkpoint import checkpoints_of, load_checkpoint
from reeltag.store.run import RunFolder

# Batch norm and dropout see the clips of one process alone; a network with neither is the same function on any number.
RECIPE = """
data: {num_frames: 2, short_side_px: 40, crop: random, crop_px: 32, flip: true}
model: {name: tsn_test_convnext, dropout: 0}
train: {epochs: 2, batch_size: 5, optimizer: sgd, lr: 0.1, clip_norm: 1, precision: fp32, evaluate_every: 1}
"""


def train(recipe, manifest, out, *overrides, resume=False, sharded=False):
    call = TrainCall(str(recipe), overrides, manifest, out, device="cpu", workers=0, resume=resume, sharded=sharded)
    return train_recipe(call, 0, None)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "norms_of_single_clips.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(autouse=True)
def small_blocks_are_sharded_too(monkeypatch):
    monkeypatch.setattr("reeltag.engine.sharded.MIN_PARAMETERS", 1000)


@pytest.fixture(scope="module")
def alone(recipe, mini_packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    train(recipe, mini_packed, out)
    return out


def losses(out):
    return [line["loss"] for line in RunFolder.open(out).metric_lines() if "loss" in line]


def validations(out):
    return [line["val"] for line in RunFolder.open(out).metric_lines() if "val" in line]


def last(out):
    return load_checkpoint(checkpoints_of(out / "checkpoints")[-1])


@pytest.mark.parametrize(("world", "sharded"), [(2, False), (3, False), (2, True)])
def test_losses_validation_and_weights_are_those_of_one_process(
    together, alone, recipe, mini_packed, tmp_path, world, sharded
):
    out = tmp_path / "run"
    found = together(world, lambda: train(recipe, mini_packed, out, sharded=sharded))
    assert len(losses(out)) == len(losses(alone)) == 12  # 32 clips in batches of 5, twice
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)
    for ours, theirs in zip(validations(out), validations(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    (ours, state), (theirs, expected) = last(out), last(alone)
    for group in ("model", "optimizer"):
        assert ours[group].keys() == theirs[group].keys()
        for name, tensor in theirs[group].items():
            torch.testing.assert_close(
                ours[group][name], tensor, rtol=1e-4, atol=1e-5
            )  # sums in another order, twelve times
    assert {key: state[key] for key in ("step", "epoch", "clips", "total_steps", "optimizer")} == {
        key: expected[key] for key in ("step", "epoch", "clips", "total_steps", "optimizer")
    }
    assert found[0]["steps"] == found[1]["steps"] == 12


@pytest.mark.parametrize("world", [1, 3])
def test_another_number_of_processes_goes_on_in_the_middle_of_an_epoch(
    together, alone, recipe, mini_packed, tmp_path, world
):
    out = tmp_path / "run"
    together(2, lambda: train(recipe, mini_packed, out, "train.checkpoint_every_s=0"))
    keep_only(out, "step_00000010")  # the fourth batch of the second epoch
    together(world, lambda: train(recipe, mini_packed, out, "train.checkpoint_every_s=0", resume=True))
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)


def keep_only(out, name):
    found = checkpoints_of(out / "checkpoints")
    assert name in [folder.name for folder in found]
    for folder in found:
        if folder.name != name:
            shutil.rmtree(folder)


@pytest.mark.parametrize("first", [True, False])
def test_a_sharded_run_and_a_whole_one_continue_each_other(together, recipe, mini_packed, tmp_path, first):
    out, adam = tmp_path / "run", ("train.optimizer=adamw", "train.lr=0.001", "train.schedule=constant")
    train(recipe, mini_packed, tmp_path / "whole", *adam)
    together(2, lambda: train(recipe, mini_packed, out, *adam, sharded=first))
    keep_only(out, "step_00000006")
    together(2, lambda: train(recipe, mini_packed, out, *adam, resume=True, sharded=not first))
    # Adam divides by the root of tiny squares, so its steps magnify what rounding did.
    assert losses(out) == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


@pytest.fixture
def broken(mini_manifest, tmp_path):
    """Four training clips of which the first three are unreadable, and three to validate, one of them unreadable."""
    table = Manifest.read(mini_manifest)
    rows = {name: [row for row, split in enumerate(table.splits) if split == name] for name in ("train", "val")}
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    lines = ["path,labels,video_id,split"]
    for split, bad, count in (("train", (0, 1, 2), 4), ("val", (1,), 3)):
        for number, row in enumerate(rows[split][:count]):
            path = tmp_path / "text.mp4" if number in bad else table.video_path(row)
            names = "|".join(table.label_names[label] for label in table.labels[row])
            lines.append(f"{path},{names},{table.video_ids[row]},{split}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.txt").write_text("\n".join(table.label_names) + "\n")
    return tmp_path / "m.csv"


@pytest.mark.parametrize("sharded", [False, True])
def test_processes_without_a_readable_clip_keep_step(together, recipe, broken, tmp_path, sharded):
    overrides = ("train.batch_size=4", "data.max_bad=0.8", "train.epochs=3")
    train(recipe, broken, tmp_path / "alone", *overrides)
    together(3, lambda: train(recipe, broken, tmp_path / "run", *overrides, sharded=sharded))
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert validations(tmp_path / "run")[-1] == pytest.approx(validations(tmp_path / "alone")[-1], abs=1e-5)
    for name in ("run", "alone"):
        assert sorted(line["row"] for line in RunFolder.open(tmp_path / name).bad_file_lines()) == [0, 1, 2]
    assert last(tmp_path / "run")[1]["clips"] == 3


def refuse(recipe, manifest, out):
    with join("cpu"):
        with pytest.raises(TooManyBadFiles, match="3 of 4 training files"):
            train(recipe, manifest, out, "data.max_bad=0.5", "train.batch_size=4")
        with pytest.raises(RecipeError, match="batch_size 1 is for all 2 processes together"):
            train(recipe, manifest, out / "small", "train.batch_size=1")
        return current().rank


def test_all_processes_stop_for_the_same_reason(together, recipe, broken, tmp_path):
    assert together(2, refuse, recipe, broken, tmp_path / "run") == [0, 1]


def gradients(name, logits, targets, ignore, cuts):
    with join("cpu") as me:
        part = slice(cuts[me.rank], cuts[me.rank + 1])
        own = logits[part].clone().requires_grad_()
        counts = [after - before for before, after in itertools.pairwise(cuts)]
        padded = own if len(own) else torch.zeros(1, logits.shape[1], requires_grad=True)
        truth = (targets[part], ignore[part]) if len(own) else (targets[:1], ignore[:1])
        torch.manual_seed(7)
        loss, value = loss_of_all(LOSSES[name], me, padded, *truth, counts)
        loss.backward()
        return value, None if not len(own) else (own.grad / me.world).numpy(), float(padded.grad.abs().sum())


@pytest.mark.parametrize("name", ["bce", "lsep_sampled", "partial_bce", "warp_sampled", "wlsep"])
def test_a_loss_of_parts_is_that_of_the_whole_batch(together, name):
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 6), (torch.rand(5, 6) < 0.4).float()
    ignore = torch.rand(5, 6) < 0.2
    whole = logits.clone().requires_grad_()
    torch.manual_seed(7)
    expected = LOSSES[name](whole, targets, ignore=ignore)
    expected.backward()
    parts = together(3, gradients, name, logits, targets, ignore, [0, 2, 2, 5])  # the second has no clip
    assert [value for value, _, _ in parts] == pytest.approx([expected.item()] * 3, rel=1e-6)
    found = np.concatenate([gradient for _, gradient, _ in parts if gradient is not None])
    np.testing.assert_allclose(found, whole.grad.numpy(), atol=1e-6)
    assert parts[1][2] == 0


def dropped_units():
    from reeltag.engine.global_batch import seed_forward, seed_loss

    with join("cpu") as me:
        draws = []
        for step in (0, 1, 0):
            seed_forward(me, 3, step)
            draws.append(torch.rand(4).tolist())
            seed_loss(3, step)
            draws.append(torch.rand(4).tolist())
        return draws


def test_dropout_differs_between_processes_and_a_loss_draws_the_same(together):
    first, second = together(2, dropped_units)
    assert first[0] == first[4] != second[0] == second[4]
    assert first[0] != first[2]
    assert first[1] == second[1] == first[5] != first[3] == second[3]


def files_of(path):
    return sorted(os.listdir(path))


def test_only_the_main_process_writes(together, alone, recipe, mini_packed, tmp_path):
    out = tmp_path / "run"
    together(2, lambda: train(recipe, mini_packed, out, "train.epochs=1"))
    assert files_of(out) == files_of(alone)
    assert len(files_of(out / "tensorboard")) == 1
    steps = [line["step"] for line in RunFolder.open(out).metric_lines() if "loss" in line]
    assert steps == sorted(set(steps))
