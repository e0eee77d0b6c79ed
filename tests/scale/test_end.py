"""Ctrl-C ends a call by ray with everything that it started, keeps what is done, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")


def processes_of(session: int) -> list[str]:
    """Return the names of what runs in a session, or hangs below something of it."""
    parents, found = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, rest = (folder / "stat").read_text().rsplit(")", 1)
        except OSError:
            continue
        state, parent, _, own = rest.split()[:4]
        parents[int(folder.name)] = int(parent)
        if int(own) == session and state != "Z":
            found[int(folder.name)] = name
    return list(found.values())


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_file_but_the_parts(mini_run, mini_manifest, tmp_path):
    before = set(Path("/tmp").glob("reeltag-ray-*"))
    out, printed = tmp_path / "tags.parquet", tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "reeltag", "tag", str(mini_run), *([str(mini_manifest)] * 40), "--json"]
    command += ["--out", str(out), "--engine", "ray"]
    with printed.open("w") as stdout:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
        )
        deadline = time.monotonic() + 240
        while not (done := printed.read_text().count("\n")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to everything of the call
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert "ray::" not in complaint
    assert processes_of(process.pid) == []
    assert set(Path("/tmp").glob("reeltag-ray-*")) == before
    kept = "".join(path.read_text() for path in Path(f"{out}.parts").glob("part-*.jsonl")).splitlines()
    assert 1 <= done <= len(kept) < 40 * 48
    assert not out.exists()
