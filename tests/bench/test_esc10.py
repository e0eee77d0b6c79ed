"""The benchmark on sounds, on numbers by hand and on a few generated sounds in two folds."""

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reeltag.bench import run_bench
from reeltag.bench.esc10 import METHODS, fold_folder, folds_of, measure, method_of
from reeltag.bench.training import TimedRun
from reeltag.build import build_parts
from reeltag.data.dataset import collate
from reeltag.data.footage import open_footage
from reeltag.data.importers import import_manifest
from reeltag.engine.optim import build_optimizer
from reeltag.errors import ManifestError, RecipeError
from reeltag.models.scoring import model_inputs
from reeltag.recipe import load_recipe
from reeltag.store.run import RunFolder
from reeltag.store.scores import Scores

RATE_HZ = 8000
TINY = """
data: {audio: {rate_hz: 8000, seconds: 0.25}}
model:
  name: logmel_mini
  seconds: 0.25
  spectrogram_options: {rate_hz: 8000, n_fft: 256, window: 256, hop: 64, n_mels: 32}
  backbone_options: {widths: [4, 8]}
loss: {name: kl}
train: {epochs: 16, batch_size: 3, optimizer: adamw, lr: 0.02, clip_norm: 5, warmup_epochs: 1}
test: {clips: 3, activation: softmax}
"""


def write_sound(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, len(samples), "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Low and high tones at drawn pitches, twelve of each, in two folds."""
    folder, drawn = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    time_s = np.arange(RATE_HZ // 2) / RATE_HZ
    for name, low_hz in (("001 - Low", 200), ("002 - High", 1500)):
        for number in range(12):
            tone = 0.4 * np.sin(2 * np.pi * low_hz * (1 + drawn.random()) * time_s)
            write_sound(folder / name / f"{1 + number % 2}-{number}-A.wav", tone + 0.01 * drawn.standard_normal(4000))
    return folder


def run_of(scores, classes, seconds=30.0, cpu_s=60.0):
    targets = np.eye(2, dtype=np.uint8)[classes]
    values = np.array([[1 - score, score] for score in scores], dtype=np.float32)
    return TimedRun(
        Path(),
        Scores([str(i) for i in range(len(values))], values, ["a", "b"], "probability", targets),
        seconds,
        seconds,
        2,
        cpu_s,
    )


def test_errors_are_means_over_folds_then_over_seeds():
    runs = {
        (1, 0): run_of([0.1, 0.9, 0.9, 0.9], [0, 1, 1, 1]),  # none wrong
        (2, 0): run_of([0.9, 0.9], [0, 1]),  # one of two
        (1, 1): run_of([0.9, 0.9, 0.9, 0.9], [0, 1, 1, 1]),  # one of four
        (2, 1): run_of([0.9, 0.1], [0, 1]),  # both
    }
    found = measure(runs)
    assert found["errors"] == {"1": {"0": 0.0, "1": 25.0}, "2": {"0": 50.0, "1": 100.0}}
    assert found["error_by_seed"] == [25.0, 62.5]  # over folds, whatever their size
    assert found["error"] == 43.75
    assert found["sd_over_seeds"] == round(37.5 / 2**0.5, 2)
    assert (found["runs"], found["minutes"], found["core_minutes"], found["threads"]) == (4, 4.0, 4.0, [2])
    assert measure({(1, 0): run_of([0.1], [0], cpu_s=None)})["core_minutes"] is None


def test_folds_come_from_names_and_each_is_tested_once(sounds, tmp_path):
    manifest, _ = import_manifest(sounds)
    folds = folds_of(manifest)
    assert sorted(folds.tolist()) == [1] * 12 + [2] * 12
    for name in ("a.wav", "0-1-A.wav"):
        write_sound(tmp_path / "wrong" / "001 - Low" / name, np.zeros(800))
        with pytest.raises(ManifestError, match="no fold in its name"):
            folds_of(import_manifest(tmp_path / "wrong")[0])
        (tmp_path / "wrong" / "001 - Low" / name).unlink()
    write_sound(tmp_path / "one" / "001 - Low" / "3-1-A.wav", np.zeros(800))
    with pytest.raises(ManifestError, match="of fold 3; nothing is left to train on"):
        folds_of(import_manifest(tmp_path / "one")[0])


def test_the_recipe_is_the_method_that_it_is():
    assert method_of("bc2018/envnet_v2_esc10") == "plain"
    assert [method_of(f"bc2018/envnet_v2_esc10_{name}") for name in ("bc", "strong", "strong_bc")] == [
        "bc",
        "strong",
        "strong_bc",
    ]
    assert method_of("demo/sound_mini") is None


def test_it_trains_on_other_folds_and_adds_to_what_is_there(sounds, tmp_path, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY)
    arguments = [
        f"data={sounds}",
        f"out={tmp_path / 'out'}",
        f"save={tmp_path / 'r.json'}",
        f"recipe={recipe}",
        "workers=0",
    ]
    first = run_bench("esc10", [*arguments, "seeds=2"])
    assert first["recipe_is"] == "plain"
    row = first["methods"]["plain"]
    assert row["runs"] == 4
    assert row["error"] < 15  # chance is 50: low and high tones are easy
    run = tmp_path / "out" / "tiny" / "plain" / "fold2" / "seed1"
    scores = Scores.read(run / "scores" / "test.parquet")
    assert len(scores.video_ids) == 12
    assert {Path(name).name[0] for name in scores.video_ids} == {"2"}
    assert scores.values.sum(1) == pytest.approx(np.ones(12), abs=1e-5)
    wrong = 100 * float((scores.values.argmax(1) != scores.targets.argmax(1)).mean())
    assert row["errors"]["2"]["1"] == round(wrong, 2)
    opened = RunFolder.open(run)
    footage = open_footage(opened.facts["manifest"])
    assert footage.packed
    assert footage.manifest.split_counts == {"test": 12, "train": 12}
    assert opened.recipe.train.seed == 1

    again = run_bench("esc10", [*arguments, "seeds=1", "methods=[plain, strong_bc]", "folds=[1]"])
    assert again["methods"]["plain"]["errors"] == {"1": {"0": row["errors"]["1"]["0"]}}  # read, not trained again
    kept = json.loads((tmp_path / "r.json").read_text())["tiny"]["methods"]
    assert set(kept) == {"plain", "strong_bc"}
    trained = RunFolder.open(tmp_path / "out" / "tiny" / "strong_bc" / "fold1" / "seed0").recipe
    assert (trained.data.mix.name, trained.data.audio.speed, trained.data.audio.gain_db) == ("between_class", 1.25, 6)
    assert "| strong_bc |" in capsys.readouterr().out

    shorter = run_bench("esc10", [*arguments, "seeds=1", "folds=[1]", "epochs=3"])
    assert shorter["epochs"] == 3
    assert set(json.loads((tmp_path / "r.json").read_text())) == {"tiny", "tiny-3"}
    stretched = RunFolder.open(tmp_path / "out" / "tiny-3" / "plain" / "fold1" / "seed0").recipe
    assert stretched.train.warmup_epochs == 0.188

    with pytest.raises(RecipeError, match="'mixup' is not among plain, bc, strong, strong_bc"):
        run_bench("esc10", [*arguments, "methods=[mixup]"])
    with pytest.raises(RecipeError, match="there is no fold 4"):
        run_bench("esc10", [*arguments, "folds=[4]"])
    with pytest.raises(ManifestError, match="1 of 25 sounds could not be read"):
        fold_folder(tmp_path / "out" / "packed-8000", np.array([1, 2] * 12 + [1]), 1)


def test_every_method_is_a_row_of_the_paper():
    reported = {
        name: load_recipe(f"bc2018/envnet_v2_esc10{'' if name == 'plain' else f'_{name}'}").source.reported["error"]
        for name in METHODS
    }
    assert reported == {"plain": 14.2, "bc": 10.6, "strong": 10.9, "strong_bc": 8.6}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["envnet_esc10", "envnet_v2_esc10", "envnet_v2_esc10_strong_bc"])
def test_the_papers_networks_learn_from_their_recipes(name, sounds, tmp_path):
    manifest, _ = import_manifest(sounds)
    splits = tuple("test" if fold == 1 else "train" for fold in folds_of(manifest).tolist())
    replace(manifest, splits=splits).write(tmp_path / "manifest.parquet")
    recipe = load_recipe(f"bc2018/{name}", ["model.dropout=0", "train.lr=0.0005"])
    parts = build_parts(recipe, open_footage(tmp_path / "manifest.parquet"))
    optimizer = build_optimizer(parts.model, recipe.train)
    batch = collate([parts.training[0, row, 0] for row in parts.train_rows[::3]])  # two of each class
    assert batch["waveform"].shape == (4, 1, parts.model.num_samples)
    assert batch["targets"].sum(1).tolist() == pytest.approx([1, 1, 1, 1])
    mixed = (batch["targets"] > 0) & (batch["targets"] < 1)
    assert bool(mixed.any()) is (recipe.data.mix is not None)
    losses = []
    for _ in range(4):
        logits = parts.model(*model_inputs(parts.model, batch))
        loss = parts.loss(logits, batch["targets"], ignore=batch["ignore"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
