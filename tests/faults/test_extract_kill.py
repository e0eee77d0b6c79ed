"""Extraction killed at random moments and started again: nothing is lost, and nothing but the open shard done twice."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reeltag.data.features import FeatureStore, read_index
from reeltag.data.footage import open_footage
from reeltag.inference.extract import extract
from reeltag.inference.extractor import build_extractor


@pytest.fixture(scope="module")
def extractor(mini_run):
    return build_extractor(str(mini_run), device="cpu")


def counted(extractor, log: Path):
    """The same extractor, which adds a byte to a file for each part of a video that it computes."""

    def encode(clips):
        with log.open("ab") as file:
            file.write(b".")
        return extractor.encode(clips)

    return replace(extractor, encode=encode)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("coded", [False, True])
def test_killed_ten_times_and_finished_is_as_if_untouched(extractor, mini_packed, tmp_path, coded, run_and_kill):
    footage, options = (
        open_footage(mini_packed),
        {"workers": 0, "shard_s": 0.0, **({"pca": 8, "quantize": True} if coded else {})},
    )
    started = time.monotonic()
    extract(extractor, footage, tmp_path / "whole", **options)
    whole_s = time.monotonic() - started
    out, log, chance = tmp_path / "killed", tmp_path / "log", random.Random(4)
    kills, shards = 0, {}
    for _ in range(30):
        if kills == 10:
            break
        ended = run_and_kill(
            lambda: extract(counted(extractor, log), footage, out, **options), chance.uniform(0, whole_s / 4)
        )
        kills += not ended
        for path in out.rglob("shard-*.safetensors"):
            if read_index(path.parent, path.name) is not None:
                assert (
                    shards.setdefault(path, path.read_bytes()) == path.read_bytes()
                )  # what is finished stays as it is
        if ended:
            break
    assert kills >= 3  # or the test has shown nothing
    extract(counted(extractor, log), footage, out, **options)
    videos = len(footage.manifest)
    assert videos <= len(log.read_bytes()) <= videos + kills
    whole, killed = FeatureStore(tmp_path / "whole"), FeatureStore(out)
    killed.verify()
    assert killed.manifest.video_ids == whole.manifest.video_ids
    for row in range(videos):
        assert torch.equal(killed.stored(row)[0], whole.stored(row)[0])
    assert not list(out.glob(".shard-*"))
    assert not (out / "raw").exists()
