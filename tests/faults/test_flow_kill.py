"""Flow and packs killed with SIGKILL at random moments and started again: nothing is lost, nothing torn is read."""

import json
import random
import subprocess
import sys
import time

import pytest

from reeltag.data import flow_store as flow_store_module
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import FlowStore, is_flow_store, write_flow
from reeltag.data.manifest import Manifest
from reeltag.data.shards import PackedVideos

DIS = FlowSettings(method="dis", short_side_px=40)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_many_times_and_finished_is_as_if_untouched(mini_packed, tmp_path, monkeypatch, run_and_kill):
    videos, options = PackedVideos(mini_packed), {"workers": 0, "shard_bytes": 1}  # a shard a clip
    started = time.monotonic()
    write_flow(videos, tmp_path / "whole", DIS, **options)
    whole_s = time.monotonic() - started
    out, log, chance = tmp_path / "killed", tmp_path / "log", random.Random(4)
    encode = flow_store_module.encode_flow

    def counted(clip, **settings):
        with log.open("ab") as file:
            file.write(b".")
        return encode(clip, **settings)

    monkeypatch.setattr(flow_store_module, "encode_flow", counted)
    kills, shards = 0, {}
    for _ in range(30):
        ended = run_and_kill(lambda: write_flow(videos, out, DIS, **options), chance.uniform(0, whole_s / 4))
        kills += not ended
        assert ended == is_flow_store(out)  # a reader sees all of it or nothing
        for line in (out / "progress.jsonl").read_bytes().split(b"\n")[1:-1] if out.exists() else []:
            path = out / json.loads(line)["name"]
            assert shards.setdefault(path, path.read_bytes()) == path.read_bytes()  # what counts stays as it is
        if ended or kills == 10:
            break
    assert kills >= 3  # or the test has shown nothing
    report = write_flow(videos, out, DIS, **options)
    assert len(videos) <= len(log.read_bytes()) <= len(videos) + kills  # at most one clip is done again a kill
    assert report.clips == len(videos)
    for path in (tmp_path / "whole").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    FlowStore(out).verify()


SCRIPT = """
import sys
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.flow_store import write_flow
from reeltag.data.manifest import Manifest

if __name__ == "__main__":
    settings = FlowSettings(method="tvl1", short_side_px=40, max_frames=6)
    write_flow(Manifest.read(sys.argv[1]), sys.argv[2], settings, workers=2, shard_bytes=1, progress=print)
    print("done")
"""


@pytest.mark.slow
def test_many_processes_killed_and_finished_give_the_bytes_of_one(mini_manifest, tmp_path):
    settings = FlowSettings(method="tvl1", short_side_px=40, max_frames=6)
    write_flow(Manifest.read(mini_manifest), tmp_path / "one", settings, workers=0, shard_bytes=1)
    (tmp_path / "work.py").write_text(SCRIPT)
    out = tmp_path / "many"
    call = [sys.executable, "-u", str(tmp_path / "work.py"), str(mini_manifest), str(out)]
    for clips in (5, 15, 30):
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as running:
            for line in running.stdout:
                if int(line.split()[0]) >= clips:
                    break
            running.kill()
            running.wait()
        assert not is_flow_store(out)
        assert len(list(out.glob("shard-*.tar"))) >= clips - 1
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("done\n")
    assert int(done.stdout.split()[0]) >= 29  # it told at once how much was there
    for path in (tmp_path / "one").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    FlowStore(out).verify()
