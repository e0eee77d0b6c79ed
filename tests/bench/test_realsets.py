"""The benchmark of losses on real sets, on sets made here in the same form."""

import json

import numpy as np
import pytest

from reeltag.bench.feature_net import train_nets
from reeltag.bench.feature_sets import FOLDS, Split, folds_of, read_sets
from reeltag.bench.realsets import (
    best_losses,
    best_threshold,
    losses_that_apply,
    markdown,
    measure,
    not_above_prior,
)
from reeltag.errors import ReeltagError
from reeltag.losses import LOSSES
from reeltag.metrics import METRICS


def drawn(count, seed=0, num_labels=5):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, 8)).astype(np.float32)
    y = x @ np.random.default_rng(9).standard_normal((8, num_labels)) + generator.standard_normal((count, 5)) > 1
    return x, y


@pytest.fixture(scope="module")
def split():
    return Split(*drawn(200), *drawn(150, seed=1))


def write_arff(folder, name, x, y):
    attributes = [f"@attribute f{i} numeric" for i in range(x.shape[1])]
    labels = [f"@attribute l{i} {{0,1}}" for i in range(y.shape[1])]
    rows = [",".join(map(str, [*a.tolist(), *b.astype(int).tolist()])) for a, b in zip(x, y, strict=True)]
    (folder / f"{name}.arff").write_text("\n".join(["@relation r", *attributes, *labels, "@data", *rows]))
    label_names = "".join(f'<label name="l{i}"></label>' for i in range(y.shape[1]))
    (folder / f"{name.split('-')[0]}.xml").write_text(f"<labels>{label_names}</labels>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for name in ("emotions", "scene", "yeast"):
        write_arff(root, f"{name}-train", *drawn(30))
        write_arff(root, f"{name}-test", *drawn(20, seed=1))
    write_arff(root, "cal500", *drawn(41, seed=2))
    (x, y), (u, v) = drawn(30), drawn(20, seed=1)
    np.savez(root / "mediamill_reduced.npz", x_train=x, y_train=y, x_test=u, y_test=v)
    return root


def test_sets_come_with_their_splits(folder):
    sets = read_sets(folder)
    assert {name: len(splits) for name, splits in sets.items()} == {
        "emotions": 1, "scene": 1, "yeast": 1, "cal500": FOLDS, "mediamill": 1,
    }  # fmt: skip
    x, y = drawn(20, seed=1)
    np.testing.assert_array_equal(sets["scene"][0].test_x, x)
    np.testing.assert_array_equal(sets["scene"][0].test_y, y)
    tested = np.concatenate([fold.test_x for fold in sets["cal500"]])
    assert sorted(tested[:, 0]) == sorted(drawn(41, seed=2)[0][:, 0])  # each once
    (folder / "mediamill_reduced.npz").rename(folder / "aside.npz")
    with pytest.raises(ReeltagError, match="mediamill_reduced.npz cannot be read"):
        read_sets(folder)
    (folder / "aside.npz").rename(folder / "mediamill_reduced.npz")


def test_folds_are_fifths_of_one_order():
    folds = folds_of(502)
    assert np.array_equal(np.sum(folds, axis=0), np.ones(502))
    assert {int(fold.sum()) for fold in folds} == {100, 101}


def test_networks_side_by_side_learn_as_each_alone_would(split):
    *_, score = train_nets(LOSSES["bce"], split.train_x, split.train_y, lr=0.01, epochs=30, seeds=3)
    scores = score(split.test_x)
    assert scores.shape == (3, 150, 5)
    each = [METRICS["map_macro"](one, split.test_y) for one in scores]
    assert min(each) > 0.75
    assert len({round(value, 6) for value in each}) == 3  # three networks, not one thrice
    twice = [list(train_nets(LOSSES["lsep"], split.train_x, split.train_y, lr=0.01, epochs=2, seeds=1)) for _ in "ab"]
    assert np.array_equal(twice[0][-1](split.test_x), twice[1][-1](split.test_x))


def test_the_threshold_is_the_best_by_trying_all(split):
    scores = np.random.default_rng(0).random(split.test_y.shape) + 0.5 * split.test_y
    f1 = [METRICS["f1_samples"]((scores >= bar).astype(float), split.test_y) for bar in np.linspace(0, 1.5, 301)]
    found = METRICS["f1_samples"]((scores >= best_threshold(scores, split.test_y)).astype(float), split.test_y)
    assert found == pytest.approx(max(f1), abs=0.01)  # of 100 quantiles


@pytest.mark.parametrize("method", ["prior", "svm", "lsep_sampled"])
def test_a_method_is_tuned_within_the_training_part(split, method, monkeypatch):
    monkeypatch.setattr("reeltag.bench.realsets.EPOCHS", 10)
    monkeypatch.setattr("reeltag.bench.realsets.RATES", (1e-3, 1e-2))
    found = measure(method, split)
    assert set(found) == {"map_macro", "map_micro", "lrap", "one_error", "f1_samples"}
    if method == "prior":
        assert found["map_macro"] == pytest.approx(split.test_y.mean(0).mean(), rel=1e-6)
    else:
        assert found["map_macro"] > 0.7
    blind = Split(split.train_x, split.train_y, split.test_x[::-1], split.test_y)
    assert measure(method, blind)["map_macro"] < found["map_macro"] + 1e-9  # truth of other videos: no peeking
    assert "kl" not in losses_that_apply()
    assert {"bce", "warp", "lsep", "focal"} <= set(losses_that_apply())


def test_tables_say_who_wins_and_who_does_not_beat_the_prior():
    methods = {
        "prior": {"s": {"map_macro": 0.3, "map_micro": 0.3, "lrap": 0.5, "one_error": 0.5, "f1_samples": 0.4}},
        "svm": {"s": {"map_macro": 0.9, "map_micro": 0.9, "lrap": 0.9, "one_error": 0.1, "f1_samples": 0.9}},
        "bce": {"s": {"map_macro": 0.6, "map_micro": 0.3, "lrap": 0.6, "one_error": 0.3, "f1_samples": 0.5}},
        "warp": {"s": {"map_macro": 0.5, "map_micro": 0.4, "lrap": 0.7, "one_error": 0.6, "f1_samples": 0.6}},
    }
    assert not_above_prior(methods) == ["bce s map_micro", "warp s one_error"]
    assert best_losses(methods)["s"] == {
        "map_macro": "bce", "map_micro": "warp", "lrap": "warp", "one_error": "bce", "f1_samples": "warp",
    }  # fmt: skip
    assert "| bce | **0.600** |" in markdown(methods)
    assert "| svm | 0.900 |" in markdown(methods)


@pytest.mark.slow
def test_every_loss_is_measured_on_every_set(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("reeltag.bench.realsets.EPOCHS", 5)
    monkeypatch.setattr("reeltag.bench.realsets.CHECKS", (5,))
    from reeltag.bench import run_bench

    result = run_bench("losses", [f"data={folder}", f"out={tmp_path / 'l.json'}", "only=cal500"])
    assert set(result["methods"]) == {"prior", "knn", "svm", "logistic_regression", *losses_that_apply()}
    assert json.loads((tmp_path / "l.json").read_text())["sets"]["cal500"]["splits"] == 5
