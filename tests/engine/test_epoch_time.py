"""The predicted time of an epoch is near the measured one."""

import time

import pytest

from reeltag.bench import run_bench
from reeltag.bench.data import advice
from reeltag.data.footage import open_footage
from reeltag.engine.epoch_time import EpochTime, measure_epoch
from reeltag.engine.run_recipe import TrainCall, dry_run_recipe, train_recipe
from reeltag.errors import ReeltagError
from reeltag.recipe import load_recipe
from reeltag.store.run import RunFolder


def test_an_epoch_is_its_batches_and_their_start():
    found = EpochTime(start_s=2, read_s=0.5, step_s=0.3, both_s=0.6, num_batches=10, measured=8, workers=1)
    assert found.epoch_s == pytest.approx(8)
    assert found.waits == pytest.approx(0.5)
    assert "data pack`" in advice(found, packed=False)
    assert "--workers, or shards" in advice(found, packed=True)
    assert "the model sets the pace" in advice(EpochTime(0, 0.1, 0.6, 0.6, 10, 8, 1), packed=True)


@pytest.mark.parametrize("source", ["packed", "files"])
def test_the_prediction_is_near_a_measured_epoch(mini_packed, mini_manifest, small_recipe, tmp_path, source):
    # Within a factor of 3: eight batches of some 20 ms each, on machines that other programs use at the same time.
    data = mini_packed if source == "packed" else mini_manifest
    found = measure_epoch(load_recipe(small_recipe), open_footage(data), device="cpu", workers=0)
    assert found.num_batches == found.measured == 8
    assert found.read_s < found.both_s
    assert found.step_s < found.both_s
    overrides = ("train.epochs=4", "train.checkpoint_every_s=1000")
    train_recipe(TrainCall(str(small_recipe), overrides, data, tmp_path / "run", device="cpu", workers=0), 0, None)
    times = [line["time"] for line in RunFolder.open(tmp_path / "run").metric_lines() if "loss" in line]
    epochs = [times[last] - times[last - 8] for last in (15, 23, 31)]  # from the last step of one to that of the next
    assert found.epoch_s / 3 < sorted(epochs)[1] < 3 * found.epoch_s


def test_workers_are_counted_in(mini_packed, small_recipe):
    started = time.perf_counter()
    found = measure_epoch(load_recipe(small_recipe), open_footage(mini_packed), device="cpu", workers=2, batches=4)
    assert (found.workers, found.measured) == (2, 4)
    assert 0 < found.epoch_s < time.perf_counter() - started  # all of it was measured thrice and more


def test_the_dry_run_and_the_benchmark_say_it(mini_packed, small_recipe, tmp_path, capsys):
    facts = dry_run_recipe(TrainCall(str(small_recipe), (), mini_packed, device="cpu", workers=0))
    assert facts["predicted_time"].endswith("without validation")
    assert facts["epoch_s"] > 0
    result = run_bench("data", [f"recipe={small_recipe}", f"manifest={mini_packed}", "device=cpu", "workers=0"])
    assert result["epoch_s"] == pytest.approx(result["start_s"] + 8 * result["both_s"], abs=0.02)
    assert result["clips_per_s"] == pytest.approx(4 / result["both_s"], rel=0.01)
    with pytest.raises(ReeltagError, match="no manifest=FILE given"):
        run_bench("data", [])
