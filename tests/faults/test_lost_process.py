"""A process that is killed, or hangs, ends the others soon and clearly; resumed, the run ends in the same weights."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from reeltag.engine.run_recipe import TrainCall, train_recipe
from reeltag.store.checkpoint import latest_checkpoint

EPOCHS = 16  # of 8 batches
LOST_WITHIN_S = 30


def train(recipe, packed, out, resume=False):
    overrides = (f"train.epochs={EPOCHS}", "train.checkpoint_every_s=0", "train.evaluate_every=8")
    train_recipe(TrainCall(str(recipe), overrides, packed, out, device="cpu", workers=0, resume=resume), 0, None)


def weights(out):
    newest = latest_checkpoint(out / "checkpoints")
    assert newest is not None
    assert newest.name == f"step_{EPOCHS * 8:08d}"
    return load_file(newest / "model.safetensors")


def kill_some(processes, out, chance):
    """Wait for a new checkpoint, then kill one or both at a random moment; whatever is left must end by itself."""
    before = latest_checkpoint(out / "checkpoints")
    deadline = time.monotonic() + 60
    while all(process.is_alive() for process in processes) and time.monotonic() < deadline:
        newest = sorted((out / "checkpoints").glob("step_*"))
        if newest and newest[-1] != before:
            break
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.3))
    victims = chance.choice([[0], [1], [0, 1]])
    for rank in victims:
        os.kill(processes[rank].pid, signal.SIGKILL)
    killed_at = time.monotonic()
    for process in processes:
        process.join(60)
    assert time.monotonic() - killed_at < LOST_WITHIN_S
    return victims, [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def whole(forks, mini_packed, small_recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    forks.together(2, train, small_recipe, mini_packed, out)
    return out


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_and_resumed_on_two_processes_equals_uninterrupted(
    forks, whole, mini_packed, small_recipe, tmp_path, kills
):
    out, chance, done, round_number = tmp_path / "run", random.Random(kills), 0, 0
    while done < kills:  # a run that ends before its turn is begun again: the kills must all hit
        processes = forks.start(2, train, small_recipe, mini_packed, out, (out / "recipe.yaml").exists())
        victims, codes = kill_some(processes, out, chance)
        survivors = [code for rank, code in enumerate(codes) if rank not in victims]
        hit = [codes[rank] for rank in victims].count(-signal.SIGKILL)
        done += bool(hit)
        if hit:
            assert 0 not in survivors  # no process may take a run whose partner was killed for finished
        else:
            round_number += 1
            assert_equal(out, whole)
            out = tmp_path / f"run{round_number}"
    if not finished(out):
        forks.together(2, train, small_recipe, mini_packed, out, True)
    assert_equal(out, whole)


def finished(out):
    newest = latest_checkpoint(out / "checkpoints")
    return newest is not None and newest.name == f"step_{EPOCHS * 8:08d}"


def assert_equal(out, whole):
    first, second = weights(out), weights(whole)
    assert first.keys() == second.keys()
    assert all(bool((first[name] == second[name]).all()) for name in first)


@contextmanager
def launched(recipe, packed, out, *more):
    """`torchrun -m reeltag train` on two processes, as a person would start it; nothing of it is left afterwards."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["train", str(recipe), "train.epochs=2000", "train.checkpoint_every_s=0"]
    options = ["--manifest", str(packed), "--out", str(out), "--device", "cpu", *more]
    launcher = subprocess.Popen(
        [*torchrun, "-m", "reeltag", *words, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    workers = []
    try:
        deadline = time.monotonic() + 120
        while not latest_checkpoint(out / "checkpoints") and launcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert launcher.poll() is None, launcher.communicate()[1]
        workers = workers_of(launcher)
        yield launcher, workers
    finally:
        for process in (launcher.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        launcher.communicate()


def workers_of(launcher):
    """The process numbers of the ranks, in their order."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if f"PPid:\t{launcher.pid}\n" in status.read_text():
                pairs = (status.parent / "environ").read_bytes().split(b"\0")
                rank = next((pair[5:] for pair in pairs if pair.startswith(b"RANK=")), None)
                if rank is not None:
                    found[int(rank)] = int(status.parent.name)
    return [found[rank] for rank in sorted(found)]


IN_PROC = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")


@IN_PROC
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, r"is gone|the launcher ended this process|failed; its own message"),
        (signal.SIGSTOP, r"process 1 of 2 gave no sign of life for 20 s"),
    ],
)
def test_torchrun_ends_within_half_a_minute_and_says_why(mini_packed, small_recipe, tmp_path, number, said):
    with launched(small_recipe, mini_packed, tmp_path / "run") as (launcher, (main, other)):
        os.kill(other, number)
        hit_at = time.monotonic()
        while Path(f"/proc/{main}").exists() and time.monotonic() - hit_at < 60:
            time.sleep(0.1)
        assert time.monotonic() - hit_at < LOST_WITHIN_S
        with suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)  # a stopped process cannot even be asked to end
        _, text = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert re.search(said, text), text
    assert "--resume goes on from the newest checkpoint" in text


@IN_PROC
@pytest.mark.slow
def test_ctrl_c_under_torchrun_saves_in_step(mini_packed, small_recipe, tmp_path):
    out = tmp_path / "run"
    with launched(small_recipe, mini_packed, out) as (launcher, _):
        time.sleep(1)
        os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does: to the launcher and to both processes
        _, text = launcher.communicate(timeout=60)
    said = re.search(r"interrupted at step (\d+) and saved; the same command with --out .* --resume goes on", text)
    assert said, text
    newest = latest_checkpoint(out / "checkpoints")
    assert newest is not None
    assert newest.name == f"step_{int(said[1]):08d}"
    assert "error" not in text.split("interrupted at step")[0]
