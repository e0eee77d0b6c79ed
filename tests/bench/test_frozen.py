"""The benchmark of taggers on stored features, on numbers by hand and on a small run."""

import json
import shutil

import numpy as np
import pytest

from reeltag.bench import run_bench
from reeltag.bench.frozen import map_of
from reeltag.data.footage import open_footage
from reeltag.errors import StoreError
from reeltag.inference.evaluate import evaluate, write_evaluation
from reeltag.inference.load import load_trained
from reeltag.store.scores import Scores


def test_map_is_over_labels_that_some_videos_have_and_some_not():
    targets = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]], dtype=np.uint8)
    values = np.array([[0.9, 0.1, 0.3, 0.8], [0.5, 0.2, 0.3, 0.6], [0.1, 0.3, 0.3, 0.7]], dtype=np.float32)
    scores = Scores(["a", "b", "c"], values, ["w", "x", "y", "z"], "probability", targets)
    # w: hits at ranks 1 and 3, (1 + 2/3) / 2; x is everywhere and y nowhere; z: at rank 3, 1/3
    assert map_of(scores) == round((5 / 6 + 1 / 3) / 2, 4)


def test_it_measures_what_it_trains_and_goes_on_from_what_is_there(mini_run, mini_packed, tmp_path):
    run = shutil.copytree(mini_run, tmp_path / "run")
    shutil.rmtree(run / "scores", ignore_errors=True)
    arguments = [f"data={mini_packed}", f"run={run}", f"out={tmp_path / 'out'}", "seeds=1", "num_frames=4"]
    with pytest.raises(StoreError, match="reeltag evaluate"):
        run_bench("frozen", arguments)
    loaded = load_trained(str(run), device="cpu")
    found = evaluate(loaded, open_footage(mini_packed), split="val")
    write_evaluation(found, loaded, run)
    first = run_bench("frozen", [*arguments, "control=mini"])
    assert first["end_to_end"]["map_macro"] == map_of(found.scores)
    assert (first["frozen"]["videos"], first["frozen"]["vectors"]) == (48, 192)
    assert first["within_2_minutes"] is True
    again = Scores.read(tmp_path / "out" / "trained" / "runs" / "seed0" / "scores" / "val.parquet")
    assert first["frozen"]["map_macro"] == [map_of(again)]
    assert first["within_0.01"] is (map_of(again) >= map_of(found.scores) - 0.01)
    assert "drawn weights" in first["control"]["features"]
    assert json.loads((tmp_path / "out" / "frozen.json").read_text()) == first
    assert run_bench("frozen", [*arguments, "control=mini"]) == first
