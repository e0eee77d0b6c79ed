"""The lock of a process: it keeps others out, and is gone with its holder, also where children of that one live on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from reeltag.errors import StoreError
from reeltag.store.lock import ProcessLock

HOLDER = """
import os, sys, time
from pathlib import Path
from reeltag.store.lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]), "a run")
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_killed_holder_lets_go_though_its_child_lives(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"another process is writing a run to .*; wait for it, or choose another"):
            ProcessLock(tmp_path, "a run", wait_s=0.5)
        assert 0.5 <= time.monotonic() - began < 5
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # it lives
        lock = ProcessLock(tmp_path, "a run", wait_s=1)
        lock.close()
        lock.close()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.stdout.close()


def test_a_run_that_another_process_trains_is_not_resumed(mini_run, mini_packed, tmp_path):
    import shutil

    from reeltag.engine.run_recipe import TrainCall, train_recipe

    run = shutil.copytree(mini_run, tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    before = sorted(path.name for path in run.rglob("*"))
    call = TrainCall(str(run / "recipe.yaml"), (), mini_packed, run, resume=True, device="cpu", workers=0)
    try:
        with pytest.raises(StoreError, match="another process is writing a training run"):
            train_recipe(call, 0, None)
        assert sorted(path.name for path in run.rglob("*")) == before
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert train_recipe(call, 0, None)["steps"] == 16
