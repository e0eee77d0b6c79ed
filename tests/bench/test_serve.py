"""The benchmark of the service: its percentiles by hand, and its two sides on a small run."""

import json

import pytest

from reeltag.bench import run_bench
from reeltag.bench.serve import summary
from reeltag.errors import ReeltagError


def test_percentiles_by_hand():
    seconds = [number / 1000 for number in range(1, 101)]
    assert summary(seconds, 2.0) == {"p50_ms": 50.5, "p95_ms": 96.0, "per_s": 50.0}
    assert summary([0.004], 0.5) == {"p50_ms": 4.0, "p95_ms": 4.0, "per_s": 2.0}


def test_it_needs_a_run_and_a_video(mini_run, tmp_path):
    with pytest.raises(ReeltagError, match="run=RUN video=FILE"):
        run_bench("serve", [f"run={mini_run}"])
    with pytest.raises(ReeltagError, match="nothing does not exist"):
        run_bench("serve", [f"run={tmp_path / 'nothing'}", "video=a.mp4"])


@pytest.mark.slow
def test_the_service_and_the_tagger_say_the_same_and_both_are_timed(mini_run, mini_manifest, tmp_path):
    video = next(mini_manifest.parent.glob("videos/*.mp4"))
    out = tmp_path / "serve.json"
    arguments = [f"run={mini_run}", f"video={video}", "rounds=3", "clients=2", "device=cpu", f"out={out}"]
    found = run_bench("serve", arguments)
    assert json.loads(out.read_text()) == found
    ours, alone = found["one_by_one"]["service"], found["one_by_one"]["tagger"]
    assert 0 < alone["p50_ms"] <= alone["p95_ms"]
    assert alone["per_s"] == pytest.approx(1000 / alone["p50_ms"], rel=0.9)
    assert ours["p50_ms"] > 0
    assert (found["at_once"]["clients"], found["at_once"]["workers"]) == (2, 2)
    assert found["at_once"]["per_s"] > 0
