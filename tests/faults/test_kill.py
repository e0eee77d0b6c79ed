"""A killed run continues exactly: same weights, bit for bit, as a run that nobody touched."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from reeltag.store.checkpoint import latest_checkpoint, write_checksums

EPOCHS = 24  # 24 epochs of 8 batches: long enough to be killed at many different moments


def command(recipe: Path, packed: Path, out: Path, *methods: str) -> list[str]:
    overrides = [f"train.epochs={EPOCHS}", "train.checkpoint_every_s=0", "train.evaluate_every=8", *methods]
    options = ["--manifest", str(packed), "--out", str(out), "--device", "cpu"]
    return [sys.executable, "-m", "reeltag.cli", "train", str(recipe), *overrides, *options]


def run(arguments: list[str]) -> None:
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr


def kill_while_training(arguments: list[str], out: Path, chance: random.Random) -> None:
    """Start, wait until a new checkpoint shows that steps are being made, and kill at a random moment after it."""
    before = latest_checkpoint(out / "checkpoints")
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        newest = sorted((out / "checkpoints").glob("step_*"))
        if newest and newest[-1] != before:
            break
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.4))
    process.send_signal(signal.SIGKILL)
    process.wait()


def weights(out: Path) -> dict:
    newest = latest_checkpoint(out / "checkpoints")
    assert newest is not None
    return load_file(newest / "model.safetensors")


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(bool((first[name] == second[name]).all()) for name in first)


@pytest.fixture(scope="module")
def whole(mini_packed, small_recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(command(small_recipe, mini_packed, out))
    return out


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(whole, mini_packed, small_recipe, tmp_path, kills):
    out, chance = tmp_path / "run", random.Random(kills)
    arguments = command(small_recipe, mini_packed, out)
    kill_while_training(arguments, out, chance)
    for _ in range(kills - 1):
        kill_while_training([*arguments, "--resume"], out, chance)
    run([*arguments, "--resume"])
    assert equal(weights(out), weights(whole))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))  # nothing is logged twice
    assert steps[-1] == EPOCHS * 8


AVERAGES = {
    "ema": ("train.ema={decay: 0.98}", "train.accumulate=2", "data.mix={name: mixup, alpha: 0.3}"),
    "swa": ("train.swa={from_epoch: 4, cycle_epochs: 0.5}", "train.accumulate=3", "data.sample=class_balanced"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_and_accumulation_survive_kills_too(name, mini_packed, small_recipe, tmp_path):
    run(command(small_recipe, mini_packed, tmp_path / "whole", *AVERAGES[name]))
    out, chance = tmp_path / "run", random.Random(7)
    arguments = command(small_recipe, mini_packed, out, *AVERAGES[name])
    kill_while_training(arguments, out, chance)
    for _ in range(4):
        kill_while_training([*arguments, "--resume"], out, chance)
    run([*arguments, "--resume"])
    assert equal(weights(out), weights(tmp_path / "whole"))
    files = [latest_checkpoint(folder / "checkpoints") / "training.safetensors" for folder in (out, tmp_path / "whole")]
    assert equal(*map(load_file, files))  # the weights that the average is not


def test_dropping_the_sampler_position_is_noticed(whole, mini_packed, small_recipe, tmp_path):
    """The control: with the place in the epoch lost, the weights must differ, or the test above shows nothing."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    folders = sorted((out / "checkpoints").glob("step_*"))
    middle = next(folder for folder in folders if json.loads((folder / "state.json").read_text())["batch"])
    for folder in folders:
        if folder != middle:
            shutil.rmtree(folder)
    arguments = [*command(small_recipe, mini_packed, out), "--resume"]
    shutil.copytree(out, tmp_path / "control")
    run(arguments)
    assert equal(weights(out), weights(whole))
    changed = tmp_path / "control" / "checkpoints" / middle.name
    state = json.loads((changed / "state.json").read_text())
    (changed / "state.json").write_text(json.dumps({**state, "batch": 0}))
    write_checksums(changed)
    run([*command(small_recipe, mini_packed, tmp_path / "control"), "--resume"])
    assert not equal(weights(tmp_path / "control"), weights(whole))
