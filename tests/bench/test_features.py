"""The references of `reeltag bench features` compute the same numbers, and the memory of a step adds up."""

import pytest
import torch

from reeltag.bench.features import (
    netfv_by_cluster,
    netvlad_by_cluster,
    python_shard,
    same_videos,
    write_example_shard,
)
from reeltag.bench.step_memory import StepSize, measure_step
from reeltag.data.youtube8m import VideoRecord, read_shard
from reeltag.layers.netfv import NetFV
from reeltag.layers.netvlad import NetVLAD


@pytest.mark.parametrize(("kind", "loop"), [(NetVLAD, netvlad_by_cluster), (NetFV, netfv_by_cluster)])
def test_loops_over_clusters_are_the_layers(kind, loop):
    torch.manual_seed(0)
    pool, x = kind(12, 5).eval(), torch.randn(3, 7, 12)
    with torch.inference_mode():
        torch.testing.assert_close(loop(pool, x), pool(x), rtol=1e-4, atol=1e-6)


def test_the_plain_reader_reads_the_same(tmp_path):
    write_example_shard(tmp_path / "s", 3)
    ours = list(read_shard(tmp_path / "s"))
    assert same_videos(ours, list(python_shard(tmp_path / "s", True)))
    other = VideoRecord(ours[2].video_id, ours[2].labels, {**ours[2].features, "rgb": ours[2].features["rgb"] ^ 1})
    assert not same_videos([*ours[:2], other], ours)
    assert not same_videos(ours[:2], ours)


@pytest.mark.slow
def test_the_memory_of_a_step_is_counted_beyond_what_must_be_there():
    size = StepSize(batch=64, frames=100, features=512, clusters=32, fc=256, labels=50)
    found = measure_step(size)
    fc = 512 * 32 * 256 * 4 / 2**20  # 16 MiB, nearly all of the weights
    assert fc < found["weights_mib"] < fc + 3
    assert found["optimizer_mib"] == pytest.approx(2 * found["weights_mib"], abs=1)
    assert found["batch_mib"] == round(64 * (100 * 512 + 50) * 4 / 2**20)
    assert found["batch_mib"] < found["beyond_mib"] < 30 * found["batch_mib"]
    parts = 2 * found["weights_mib"] + found["optimizer_mib"] + found["beyond_mib"]
    assert found["peak_mib"] == pytest.approx(parts, abs=3)
