"""Tagging by ray beside tagging here: the same lines, also where workers die."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reeltag.media.encode import write_video

pytestmark = pytest.mark.usefixtures("own_ray")


def workers_that_read(video: Path) -> list[int]:
    """Return the processes of ray's workers that have a file open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes() and any(
                os.readlink(each) == str(video) for each in (folder / "fd").iterdir()
            ):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile
            continue
    return found


class Killer(threading.Thread):
    """Kills every worker that opens a file, at most `most` times."""

    def __init__(self, video: Path, most: int) -> None:
        super().__init__(daemon=True)
        self._video, self._most = video, most
        self.killed: list[int] = []
        self.stop = False

    def run(self) -> None:
        while not self.stop and len(self.killed) < self._most:
            for pid in workers_that_read(self._video):
                if pid not in self.killed:
                    os.kill(pid, 9)
                    self.killed.append(pid)
            time.sleep(0.002)


@pytest.fixture(scope="module")
def slow_video(tmp_path_factory) -> Path:
    """A file that takes long enough to decode that its reader can be found."""
    path = tmp_path_factory.mktemp("slow") / "slow.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (120, 360, 640, 3), dtype=np.uint8)
    write_video(path, frames, 24, keyframes=[0])
    return path


def test_lines_and_table_are_those_of_the_local_engine(call, lines_of, mini_run, videos, tmp_path):
    words = ["tag", mini_run, *videos, "--top", 3, "--json", "--out"]
    here = call(*words, tmp_path / "here.parquet", code=1)
    there = call(*words, tmp_path / "there.parquet", "--engine", "ray", "--workers", 2, code=1)
    assert there == here
    assert lines_of(there)[1]["error"]["reason"] == "empty"
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert pq.read_table(tmp_path / "there.parquet").num_rows == 6
    assert [path.name for path in tmp_path.glob("*.parts")] == []


@pytest.mark.parametrize("most", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_costs_its_row_alone(call, lines_of, mini_run, videos, slow_video, most):
    """The row is tried again; a row that ends two workers is an error, and the others go on."""
    words = [slow_video, videos[0], videos[1]]
    plain = lines_of(call("tag", mini_run, *words, "--json", code=1))
    killer = Killer(slow_video, most)
    killer.start()
    try:
        found = lines_of(call("tag", mini_run, *words, "--json", "--engine", "ray", code=1))
    finally:
        killer.stop = True
        killer.join()
    assert len(set(killer.killed)) == most
    assert found[1:] == plain[1:]
    if most == 1:
        assert found[0] == plain[0]
        assert found[0]["labels"]
    else:
        assert found[0]["video"] == str(slow_video)
        assert found[0]["error"]["reason"] == "crashed"
        assert "ended 2 times" in found[0]["error"]["message"]
