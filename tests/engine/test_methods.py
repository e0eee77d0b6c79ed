"""Every training method through the trainer: what it does to a run, and that a stopped run goes on bit for bit."""

import json

import pytest
import torch

from reeltag.engine.find_lr import curve_of
from reeltag.engine.loop import Trainer
from reeltag.engine.run_recipe import TrainCall, dry_run_recipe, find_lr_recipe, train_recipe
from reeltag.errors import Diverged, RecipeError
from reeltag.inference.load import load_trained
from reeltag.store.checkpoint import checkpoints_of, load_checkpoint
from reeltag.store.run import RunFolder

SWA = ["train.swa={from_epoch: 2, cycle_epochs: 0.5, lr_high: 0.5, lr_low: 0.05}", "train.epochs=4"]
METHODS = {
    "ema": ["train.ema={decay: 0.95}"],
    "swa": SWA,
    "accumulate": ["train.accumulate=2"],
    "restarts": ["train.schedule=restarts", "train.cycle_epochs=0.5", "train.cycle_growth=2"],
    "layers": ["train.layer_decay=0.7", "train.head_lr=5", "train.bias_lr=2", "train.optimizer=sgd"],
    "mix": ["data.mix={name: cutmix}", "data.smoothing=0.1"],
    "repeat_factor": ["data.sample=repeat_factor", "data.repeat_threshold=0.3"],
    "fixed": ["train.freeze=all_but_head"],
    "partial_norms": ["train.freeze_norms=partial"],
    "precise_norms": ["train.precise_norms=3", "train.evaluate_every=1"],
    "checkpointing": ["train.gradient_checkpointing=true"],
    "thresholds": ["loss.name=lsep", "loss.thresholds=clip"],
    "label_weights": ["loss.label_weights=inverse_root_count"],
    "many": [
        *SWA,
        "train.accumulate=2",
        "data.mix={name: between_class}",
        "train.precise_norms=2",
        "train.evaluate_every=1",
    ],
}


def train(recipe, manifest, out, *overrides, resume=False):
    call = TrainCall(
        str(recipe), ("train.checkpoint_every_s=0", *overrides), manifest, out, device="cpu", resume=resume
    )
    return train_recipe(call, 0, None)


def last(out):
    return load_checkpoint(checkpoints_of(out / "checkpoints")[-1])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Stopped(Exception):
    pass


def stop_at(monkeypatch, step):
    """Let the trainer die before a step, as if it had been killed there."""
    original = Trainer._step

    def dying(self, batch, waited_s):
        if self.at.step == step:
            raise Stopped
        original(self, batch, waited_s)

    monkeypatch.setattr(Trainer, "_step", dying)


QUICK = ("ema", "many")  # the others take a minute together


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_stopped_run_goes_on_bit_for_bit(name, mini_packed, small_recipe, tmp_path, monkeypatch):
    overrides = METHODS[name]
    train(small_recipe, mini_packed, tmp_path / "whole", *overrides)
    tensors, state = last(tmp_path / "whole")
    for step in (state["step"] // 2 + 1, state["step"] - 2):  # in the middle of an epoch, and of the last one
        resume = (tmp_path / "parts").exists()
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Stopped):
                train(small_recipe, mini_packed, tmp_path / "parts", *overrides, resume=resume)
    train(small_recipe, mini_packed, tmp_path / "parts", *overrides, resume=True)
    again, state_again = last(tmp_path / "parts")
    assert again.keys() == tensors.keys()
    for group in tensors:
        assert same(again[group], tensors[group]), group
    assert state_again["averaging"] == state["averaging"]
    lines = [[line.get("val"), line.get("loss")] for line in RunFolder.open(tmp_path / "whole").metric_lines()]
    assert lines == [[line.get("val"), line.get("loss")] for line in RunFolder.open(tmp_path / "parts").metric_lines()]


def test_what_evaluation_reads_is_the_average(mini_packed, small_recipe, tmp_path):
    for name, overrides in (("ema", METHODS["ema"]), ("swa", SWA)):
        train(small_recipe, mini_packed, tmp_path / name, *overrides)
        tensors, state = last(tmp_path / name)
        assert {"model", "training"} <= tensors.keys()
        assert not same(tensors["model"], tensors["training"])
        loaded = load_trained(str(tmp_path / name), device="cpu")
        assert same(dict(loaded.model.state_dict()), tensors["model"])
        validated = [line for line in RunFolder.open(tmp_path / name).metric_lines() if "val" in line]
        assert validated[-1]["weights"] == "average"
        assert state["best"] == validated[-1]["val"]["map_macro"]
    assert state["averaging"] == {"count": 4, "final": True}
    assert "weights" not in validated[-2]  # the last cycle's end on its own, to compare with
    assert validated[-2]["step"] == validated[-1]["step"]


def test_swa_is_the_mean_of_its_cycles_with_new_norms(mini_packed, small_recipe, tmp_path, monkeypatch):
    ends = []
    original = Trainer._update

    def noting(self, batch, *counts):
        value = original(self, batch, *counts)
        if self.at.step + 1 in (20, 24, 28, 32):
            ends.append({name: tensor.clone() for name, tensor in self.parts.model.state_dict().items()})
        return value

    monkeypatch.setattr(Trainer, "_update", noting)
    train(small_recipe, mini_packed, tmp_path / "r", *SWA)
    model = last(tmp_path / "r")[0]["model"]
    for name in ("classifier.weight", "backbone.net.stem.0.weight", "backbone.net.blocks.0.bn1.bias"):
        mean = sum(end[name].double() for end in ends) / 4
        torch.testing.assert_close(model[name].double(), mean, rtol=1e-5, atol=1e-6)
    norm = "backbone.net.blocks.1.bn2.running_var"
    mean = sum(end[norm].double() for end in ends) / 4
    assert not torch.allclose(model[norm].double(), mean, rtol=1e-3)


def test_training_stops_early_and_stays_stopped(mini_packed, small_recipe, tmp_path):
    overrides = ["train.epochs=40", "train.evaluate_every=1", "train.patience=2", "train.lr=0.05"]
    result = train(small_recipe, mini_packed, tmp_path / "r", *overrides)
    values = [line["val"]["map_macro"] for line in RunFolder.open(tmp_path / "r").metric_lines() if "val" in line]
    assert result["steps"] == 8 * len(values) < 320
    assert values[-3] == max(values) == result["best"]
    assert all(max(values[i + 1 : i + 3]) > max(values[: i + 1]) for i in range(len(values) - 3))
    again = train(small_recipe, mini_packed, tmp_path / "r", *overrides, resume=True)
    assert again["steps"] == result["steps"]


def test_fixed_trains_the_head_alone(mini_packed, small_recipe, tmp_path):
    train(small_recipe, mini_packed, tmp_path / "r", "train.freeze=all_but_head", "train.epochs=1", "train.epochs=1")
    from reeltag.build import build_model
    from reeltag.recipe import load_recipe

    start = build_model(load_recipe(small_recipe), 30).state_dict()
    end = last(tmp_path / "r")[0]["model"]
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_checkpointing_changes_no_weight(mini_packed, small_recipe, tmp_path):
    for name in ("plain", "checkpointing"):
        train(small_recipe, mini_packed, tmp_path / name, "train.epochs=1", *METHODS.get(name, []))
    plain, recomputed = (last(tmp_path / name)[0]["model"] for name in ("plain", "checkpointing"))
    assert same(plain, recomputed)


def test_precise_norms_are_those_of_the_last_weights(mini_packed, small_recipe, tmp_path):
    train(small_recipe, mini_packed, tmp_path / "plain", "train.epochs=1")
    train(small_recipe, mini_packed, tmp_path / "precise", "train.epochs=1", "train.precise_norms=8")
    plain, precise = (last(tmp_path / name)[0]["model"] for name in ("plain", "precise"))
    differ = {name for name in plain if not torch.equal(plain[name], precise[name])}
    assert differ
    assert all("running" in name or "num_batches" in name for name in differ)  # and nothing else


def test_one_bad_batch_is_left_out_and_named(mini_packed, small_recipe, tmp_path, monkeypatch):
    original = Trainer._loss

    def spoiled(self, batch):
        loss, value = original(self, batch)
        return (loss * float("nan"), float("nan")) if self.at.step == 3 else (loss, value)

    monkeypatch.setattr(Trainer, "_loss", spoiled)
    result = train(small_recipe, mini_packed, tmp_path / "r")
    assert result["steps"] == 16
    (line,) = [line for line in RunFolder.open(tmp_path / "r").metric_lines() if "skipped" in line]
    assert (line["step"], line["skipped"], len(line["videos"])) == (4, "the loss became nan", 4)
    tensors, state = last(tmp_path / "r")
    assert state["skipped_in_row"] == 0
    assert all(tensor.isfinite().all() for tensor in tensors["model"].values() if tensor.is_floating_point())


def test_mixed_targets_are_refused_where_they_would_be_rounded(mini_packed, small_recipe, tmp_path):
    with pytest.raises(
        RecipeError, match=r"data.mix cutmix makes targets between 0 and 1, and loss 'lsep' takes 0 or 1"
    ):
        train(small_recipe, mini_packed, tmp_path / "r", "data.mix.name=cutmix", "loss.name=lsep")
    with pytest.raises(RecipeError, match=r"data.smoothing makes targets"):
        train(small_recipe, mini_packed, tmp_path / "r", "data.smoothing=0.1", "loss.name=warp")
    assert not (tmp_path / "r").exists()


def test_dry_run_shows_every_key_and_knows_the_methods(small_recipe):
    facts = dry_run_recipe(
        TrainCall(str(small_recipe), tuple(METHODS["thresholds"] + METHODS["fixed"] + METHODS["swa"]))
    )
    for key in ("accumulate: 1", "layer_decay: null", "thresholds: clip", "freeze: all_but_head", "cycle_epochs: 0.5"):
        assert key in facts["recipe"]
    assert facts["seconds_per_step"] > 0


def test_find_lr_suggests_a_rate_and_leaves_the_run_untouched(mini_packed, small_recipe, tmp_path):
    out = tmp_path / "r"
    train(small_recipe, mini_packed, out, "train.epochs=1")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    overrides = ("train.bias_prior=false", "train.batch_size=8")  # so that there is something to learn in 100 steps
    found = find_lr_recipe(TrainCall(str(small_recipe), overrides, mini_packed, out, device="cpu"))
    assert {path: path.read_bytes() for path in before} == before
    curve = json.loads((out / "find_lr.json").read_text())
    assert (out / "find_lr.png").read_bytes().startswith(b"\x89PNG")
    assert len(curve["rates"]) == len(curve["losses"]) == found["steps"] > 20
    ratios = [b / a for a, b in zip(curve["rates"], curve["rates"][1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert found["fell"] > 0.2
    assert 1e-4 < found["suggestion"] < found["lowest"]
    at = curve["rates"].index(found["suggestion"])
    assert curve["smoothed"][at + 5] < 0.95 * curve["smoothed"][at - 5]


def test_the_suggestion_by_hand():
    rates = [10.0 ** (-index) for index in range(8, 0, -1)]  # eight steps: slopes from one step to the next but one
    curve = curve_of(rates, [0.0] * 8, [5.0, 5.0, 4.9, 4.0, 2.0, 1.5, 1.4, 6.0])
    assert curve.suggestion == rates[3]  # between 4.9 and 2.0
    assert curve.lowest == rates[6]
    assert curve.fell == pytest.approx(1 - 1.4 / 5)
    assert curve_of(rates, [0.0] * 8, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).fell == 0
    with pytest.raises(Diverged, match="ended after 3 steps"):
        curve_of(rates[:3], [1.0] * 3, [1.0] * 3)
