"""What the benchmarks measure, on numbers small enough to check by hand."""

import numpy as np
import pytest

from reeltag.bench import BENCHES, run_bench
from reeltag.bench.minimoments import direction_auc, merged_runs
from reeltag.bench.sibur import ACTIONS, actions_of, hold_out, scaled
from reeltag.data.manifest import Manifest
from reeltag.errors import RecipeError, UnknownName
from reeltag.store.scores import Scores


def test_direction_auc_by_hand():
    # By difference of logits, the first label's clips are 0.8 and 0.5, the second's 0.4 and 0.9; one has neither.
    scores = np.array([[0.8, 0.2], [0.5, 0.5], [0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]])
    assert direction_auc(scores, targets) == 2 / 4  # 0.8 beats 0.4 and 0.5 beats 0.4, both lose to 0.9
    assert direction_auc(np.full((4, 2), 0.3), targets[:4]) == 0.5
    assert direction_auc(targets[:4].astype(float), targets[:4]) == 1.0


def test_runs_of_several_calls_gather_in_one_file():
    old = {"pack_s": 3.0, "runs": {"tsn": [{"motion": 0.2}, {"motion": 0.4}], "trn": [{"motion": 0.9}]}}
    new = {"pack_s": 0.0, "runs": {"tsn": [{"seed": 2, "motion": 0.9}, {"seed": 1, "motion": 0.1}]}}
    found = merged_runs(old, new)
    assert found["runs"]["tsn"] == [{"seed": s, "motion": m} for s, m in ((0, 0.2), (1, 0.1), (2, 0.9))]
    assert (found["tsn"], found["trn"], found["pack_s"]) == ({"motion": 0.4}, {"motion": 0.9}, 3.0)
    assert merged_runs({}, new)["tsn"] == {"motion": 0.5}
    assert merged_runs(found, new) == found


def test_actions_are_taken_by_name():
    names = ["gate", *reversed(ACTIONS)]
    targets = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 0]], dtype=np.uint8)
    scores = Scores(["a", "b"], targets.astype(np.float32), names, "probability", targets)
    values, truth = actions_of(scores)
    assert [ACTIONS[index] for index in truth] == ["bridge_down", "train_in_out"]
    assert values.argmax(1).tolist() == truth.tolist()


def test_a_held_out_place_is_val_and_the_rest_train(tmp_path):
    manifest = Manifest.build(["a.mp4", "b.mp4", "c.mp4"], [[0], [1], [0, 1]], ["gate", "yard"], root=tmp_path)
    assert hold_out(manifest, "gate").splits == ("val", "train", "val")


def test_a_shorter_schedule_scales_its_stages_and_warm_up():
    from reeltag.recipe import load_recipe

    recipe = load_recipe("demo/tsm_resnet18_112", scaled("demo/tsm_resnet18_112", 18))
    assert (recipe.train.epochs, recipe.train.warmup_epochs) == (18, 1.8)
    assert [(stage.from_epoch, stage.crop_px) for stage in recipe.data.stages] == [(0, 80), (9, 112)]
    assert scaled("demo/tsm_resnet18_112", None) == ()


def test_benchmarks_are_called_by_name_and_check_their_arguments():
    assert {"decode", "minimoments", "sibur"} <= set(BENCHES)
    with pytest.raises(UnknownName, match=r"Did you mean 'sibur'"):
        run_bench("siburr", [])
    with pytest.raises(RecipeError, match="has no option 'seed'. Did you mean 'seeds'"):
        run_bench("sibur", ["seed=1"])
    with pytest.raises(RecipeError, match="is not key=value"):
        run_bench("sibur", ["seeds"])
