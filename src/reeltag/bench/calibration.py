"""`reeltag bench calibration`: what calibration and thresholds bring on real multi-label sets, on unseen examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.feature_net import train_nets
from reeltag.bench.feature_sets import Split, read_sets
from reeltag.inference.calibrate import Method, calibrated_values, fit_calibration, known_of
from reeltag.inference.label_thresholds import RULES, Goal
from reeltag.losses import LOSSES
from reeltag.store.atomic import write_json
from reeltag.store.calibration import Calibration, logits_of
from reeltag.store.scores import Scores

Array: TypeAlias = npt.NDArray[Any]
TRAINED_WITH = ("bce", "focal", "asymmetric", "lsep")
METHODS: tuple[Method, ...] = ("none", "temperature", "platt")
GOALS = ("f1_micro", "f1_macro")
KEPT = tuple(f"{method} {rule} f1_micro" for method in METHODS for rule in ("half", "auto"))  # of each set
LR, EPOCHS = 3e-3, 20


@BENCHES.register("calibration")
def calibration(
    data: str = "data/multilabel", out: str = "results/calibration.json", only: str | None = None, seeds: int = 3
) -> dict[str, Any]:
    """Train small networks, calibrate each on a part that it was not trained on, and measure on a third part.

    A quarter of the training part is kept for the calibration. Every method of lines is joined with every rule of
    thresholds. Values are means over sets, splits and seeds.

    Args:
        data: the folder of the sets, see `feature_sets.read_sets`.
        out: the JSON file.
        only: one of the sets; all when not given.
        seeds: networks of each kind.
    """
    console = Console(stderr=True, highlight=False)
    sets = read_sets(Path(data))
    sets = sets if only is None else {only: sets[only]}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    found_in: dict[str, dict[str, dict[str, dict[str, float]]]] = {loss: {} for loss in TRAINED_WITH}
    try:
        for loss in TRAINED_WITH:
            for name, splits in sets.items():
                found = [row for split in splits for row in _measure(loss, split, seeds)]
                means = {key: _mean([row[key] for row in found]) for key in found[0]}
                found_in[loss][name] = means
                console.print(f"{loss} {name} {means['temperature auto f1_micro']}", soft_wrap=True)
    finally:
        torch.set_num_threads(threads)
    result: dict[str, Any] = {
        "means": {
            loss: {key: _mean([means[key] for means in by_set.values()]) for key in next(iter(by_set.values()))}
            for loss, by_set in found_in.items()
        },
        "by_set": {
            loss: {name: {key: means[key] for key in KEPT} for name, means in by_set.items()}
            for loss, by_set in found_in.items()
        },
    }
    write_json(Path(out), result)
    print(markdown(result["means"]))
    return result


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def _measure(loss: str, split: Split, seeds: int) -> list[dict[str, dict[str, float]]]:
    """Return, for each seed, what each method and rule give on the test part."""
    kept = np.random.default_rng(2).permutation(len(split.train_x)) % 4 == 0
    torch.manual_seed(0)
    nets = train_nets(LOSSES[loss], split.train_x[~kept], split.train_y[~kept], lr=LR, epochs=EPOCHS, seeds=seeds)
    score = list(nets)[-1]
    fitted, tested = score(split.train_x[kept]), score(split.test_x)
    return [
        _rows(_scores(own, split.train_y[kept]), _scores(test, split.test_y))
        for own, test in zip(fitted, tested, strict=True)
    ]


def _scores(logits: Array, targets: Array) -> Scores:
    values = np.clip(np.nan_to_num(logits), -80, 80).astype(np.float32)
    names = [str(label) for label in range(targets.shape[1])]
    return Scores([str(row) for row in range(len(targets))], values, names, "logit", targets.astype(np.uint8))


def _rows(fitted: Scores, tested: Scores) -> dict[str, dict[str, float]]:
    found, rows = known_of(fitted), {}
    for method in METHODS:
        for goal in map(Goal.parse, GOALS):
            auto = fit_calibration(fitted, method=method, goal=goal)
            lines = np.array(auto.slopes) * found.logits + np.array(auto.shifts)
            probabilities = np.exp(-np.logaddexp(0, -lines))
            for name, rule in RULES.items():
                bars = rule(probabilities, found.targets, found.known, goal).tolist()
                rows[f"{method} {name} {goal}"] = _values(tested, auto.model_copy(update={"thresholds": bars}))
            rows[f"{method} auto {goal}"] = _values(tested, auto)
    return rows


def _values(tested: Scores, made: Calibration) -> dict[str, float]:
    assert tested.targets is not None  # `_scores` gives them
    logits = logits_of(made.apply(tested.probabilities()))
    loss = float(np.mean(np.logaddexp(0, logits) - tested.targets * logits))
    return {"log_loss": loss, **calibrated_values(tested, made)}


def markdown(means: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a table of lines by losses, and one of thresholds by losses."""
    head = f"{' | '.join(means)} |\n|---|{'---|' * len(means)}"
    lines = [f"| log loss, ece | {head}"]
    for method in METHODS:
        rows = [found[f"{method} half {GOALS[0]}"] for found in means.values()]
        cells = [f"{row['log_loss']:.3f}, {row['ece']:.3f}" for row in rows]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines.append(f"\n| f1_micro, f1_macro, f1_samples | {head}")
    for key in next(iter(means.values())):
        rows = [found[key] for found in means.values()]
        cells = [f"{row['f1_micro']:.3f}, {row['f1_macro']:.3f}, {row['f1_samples']:.3f}" for row in rows]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)
