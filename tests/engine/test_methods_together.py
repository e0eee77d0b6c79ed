"""Training methods on two processes: the numbers of one, or a refusal that says what to leave out."""

import pytest
import torch

from reeltag.engine.global_batch import shares_of_all
from reeltag.engine.run_recipe import TrainCall, find_lr_recipe, train_recipe
from reeltag.errors import RecipeError
from reeltag.processes import join
from reeltag.store.checkpoint import checkpoints_of, load_checkpoint
from reeltag.store.run import RunFolder

# No batch norm and no dropout, which see the clips of one process alone.
RECIPE = """
data: {num_frames: 2, short_side_px: 40, crop: random, crop_px: 32, flip: true}
model: {name: tsn_test_convnext, dropout: 0}
train: {epochs: 1, batch_size: 6, optimizer: sgd, lr: 0.1, precision: fp32}
"""
METHODS = {
    "parts": ("train.accumulate=4",),
    "ema": ("train.ema={decay: 0.8}",),
    "swa": ("train.swa={from_epoch: 0.5, cycle_epochs: 0.25, norm_batches: 2}",),
    "thresholds": ("loss.name=lsep", "loss.thresholds=clip", "train.accumulate=2"),
    "frozen": ("train.freeze=all_but_head", "train.gradient_checkpointing=true"),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "methods.yaml"
    path.write_text(RECIPE)
    return path


def train(recipe, manifest, out, *overrides, sharded=False, resume=False):
    call = TrainCall(str(recipe), overrides, manifest, out, device="cpu", workers=0, sharded=sharded, resume=resume)
    return train_recipe(call, 0, None)


def found_in(out):
    lines = list(RunFolder.open(out).metric_lines())
    tensors, _ = load_checkpoint(checkpoints_of(out / "checkpoints")[-1])
    losses = [line["loss"] for line in lines if "loss" in line]
    return losses, [line["val"] for line in lines if "val" in line], tensors


def assert_same(run, alone):
    (losses, validations, tensors), (expected, values, weights) = found_in(run), found_in(alone)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len(losses) == 5  # 32 clips in batches of 6, of which the last is not whole
    for ours, theirs in zip(validations, values, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert tensors.keys() == weights.keys()
    for group in weights.keys() - {"rng"}:
        assert tensors[group].keys() == weights[group].keys()
        for name, tensor in weights[group].items():
            torch.testing.assert_close(tensors[group][name], tensor, rtol=1e-4, atol=1e-5)  # sums in another order


@pytest.mark.parametrize(
    ("method", "sharded"),
    [
        ("parts", False),
        pytest.param("parts", True, marks=pytest.mark.slow),
        ("ema", False),
        pytest.param("swa", False, marks=pytest.mark.slow),
        ("thresholds", False),
        pytest.param("thresholds", True, marks=pytest.mark.slow),
        pytest.param("frozen", False, marks=pytest.mark.slow),
        pytest.param("frozen", True, marks=pytest.mark.slow),
    ],
)
def test_a_method_on_two_processes_is_that_of_one(together, recipe, mini_packed, tmp_path, method, sharded):
    train(recipe, mini_packed, tmp_path / "alone", *METHODS[method])
    together(2, lambda: train(recipe, mini_packed, tmp_path / "run", *METHODS[method], sharded=sharded))
    assert_same(tmp_path / "run", tmp_path / "alone")


def refusals(recipe, manifest, out):
    with join("cpu"):
        for number, name in enumerate(("ema={decay: 0.9}", "swa={from_epoch: 0}", "precise_norms=2")):
            with pytest.raises(RecipeError, match=f"train.{name.split('=')[0]} needs every weight on every process"):
                train(recipe, manifest, out / str(number), f"train.{name}", sharded=True)
        with pytest.raises(RecipeError, match="--find-lr trains on one process, and 2 were started"):
            find_lr_recipe(TrainCall(str(recipe), (), manifest, out / "rate", device="cpu"))


def test_what_shards_cannot_do_is_refused(together, recipe, mini_packed, tmp_path):
    together(2, refusals, recipe, mini_packed, tmp_path)


def spoil_one_clip(recipe, manifest, out):
    """Train with logits that are not a number for the first clip of process 1 in its second batch."""
    from reeltag.engine.loop import Trainer

    original = Trainer._logits

    def spoiled(self, model, batch):
        logits = original(self, model, batch)
        return logits * float("nan") if self.processes.rank == 1 and self.at.step == 1 else logits

    Trainer._logits = spoiled
    train(recipe, manifest, out, "train.max_skipped=2")


def test_a_step_that_one_process_spoils_is_left_out_by_both(together, recipe, mini_packed, tmp_path):
    together(2, spoil_one_clip, recipe, mini_packed, tmp_path / "run")
    lines = list(RunFolder.open(tmp_path / "run").metric_lines())
    (skipped,) = [line for line in lines if "skipped" in line]
    assert skipped["step"] == 2
    assert skipped["skipped"] == "the loss became nan"
    assert len(set(skipped["videos"])) == 6  # of both processes
    assert all(tensor.isfinite().all() for tensor in found_in(tmp_path / "run")[2]["model"].values())


@pytest.mark.parametrize(("counts", "parts"), [([3, 2], 2), ([4, 0, 1], 3), ([1, 1], 4), ([0, 2], 1)])
def test_every_clip_is_in_one_part_and_processes_make_as_many(counts, parts):
    shares = []
    for rank, own in enumerate(counts):
        batch = {"rows": torch.arange(max(own, 1)), "counts": counts, "bad": []}
        found = list(shares_of_all(batch, parts, rank))
        kept = [part["rows"][: part["counts"][rank]] for part, _ in found]
        assert torch.equal(torch.cat(kept), torch.arange(own))
        assert all(len(part["rows"]) for part, _ in found)  # nobody is without a forward pass
        assert [part["part"] for part, _ in found] == list(range(min(parts, max(counts))))
        shares.append([share for _, share in found])
    assert all(one == shares[0] for one in shares)
    assert sum(shares[0]) == pytest.approx(1)
