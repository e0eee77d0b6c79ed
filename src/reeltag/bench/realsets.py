"""`reeltag bench losses`: every loss on real multi-label sets with one learner, beside kNN, SVM and the label prior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.feature_net import train_nets
from reeltag.bench.feature_sets import Split, read_sets
from reeltag.inference.baselines import create_baseline
from reeltag.losses import LOSSES
from reeltag.metrics import LOWER_IS_BETTER, METRICS
from reeltag.store.atomic import write_json

Array: TypeAlias = npt.NDArray[Any]
Scores = Callable[[Array], Array]

# Left out: `kl` has the gradient of `softmax`, `partial_bce` on known truth that of `bce`; `lsep_threshold` scores
# nothing, it learns thresholds for scores.
SAME_OR_NO_SCORE = ("kl", "lsep_threshold", "partial_bce")
RANKS = ("map_macro", "map_micro", "lrap", "one_error")
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
EPOCHS, SEEDS = 60, 3
CHECKS = (5, 10, 20, 40, 60)  # epochs after which a run may end
GRIDS: dict[str, list[dict[str, Any]]] = {
    "prior": [{}],
    "knn": [{"k": k} for k in (5, 10, 20, 40)],
    "svm": [{"c": c} for c in (0.001, 0.01, 0.1, 1.0)],
    "logistic_regression": [{"c": c} for c in (0.001, 0.01, 0.1, 1.0)],
}


def losses_that_apply() -> list[str]:
    """Return the names of the losses that learn scores from full truth and differ from each other on it."""
    return [name for name in LOSSES if name not in SAME_OR_NO_SCORE]


@BENCHES.register("losses")
def losses(data: str = "data/multilabel", out: str = "results/losses.json", only: str | None = None) -> dict[str, Any]:
    """Train every loss on five real sets, and write and print the table of losses by sets.

    Each method is tuned alike, on a fifth of the training part: learning rate and epochs of a network, k or C of a
    baseline, by the mean of `map_macro` and `lrap`; and one threshold for `f1_samples`. Then it learns from the whole
    training part (networks with three seeds, whose values are averaged) and is tested.

    Args:
        data: the folder of the sets, see `feature_sets.read_sets`.
        out: the JSON file.
        only: one of the sets; all when not given.
    """
    console, started = Console(stderr=True, highlight=False), time.monotonic()
    sets = read_sets(Path(data))
    sets = sets if only is None else {only: sets[only]}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    result: dict[str, Any] = {"protocol": (losses.__doc__ or "").split("\n\n")[1].replace("\n    ", " ").strip()}
    result["sets"], result["methods"] = {}, {}
    try:
        for name, splits in sets.items():
            result["sets"][name] = _describe(splits)
            for method in (*GRIDS, *losses_that_apply()):
                begun = time.monotonic()
                found = [measure(method, split) for split in splits]
                mean = {key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]}
                result["methods"].setdefault(method, {})[name] = mean
                console.print(f"{name} {method} {mean} {time.monotonic() - begun:.1f} s", soft_wrap=True)
    finally:
        torch.set_num_threads(threads)
    result["not_above_prior"] = not_above_prior(result["methods"])
    result["best_loss"] = best_losses(result["methods"])
    result["seconds"] = round(time.monotonic() - started)
    write_json(Path(out), result)
    print(markdown(result["methods"]))
    return result


def measure(method: str, split: Split) -> dict[str, float]:
    """Tune a method within the training part, learn from all of it, and return the metrics on the test part."""
    held_out = np.random.default_rng(1).permutation(len(split.train_x)) % 5 == 0
    inner = Split(split.train_x[~held_out], split.train_y[~held_out], split.train_x[held_out], split.train_y[held_out])
    best, chosen, threshold = -np.inf, None, 0.0
    for options, score in _candidates(method, inner):
        scores = score(inner.test_x)[0]
        value = METRICS["map_macro"](scores, inner.test_y) + METRICS["lrap"](scores, inner.test_y)
        if value > best:
            best, chosen, threshold = value, options, best_threshold(scores, inner.test_y)
    assert chosen is not None
    by_seed = [_values(scores, split.test_y, threshold) for scores in _learn(method, split, chosen)(split.test_x)]
    return {key: float(np.mean([one[key] for one in by_seed])) for key in by_seed[0]}


def _candidates(method: str, inner: Split) -> Iterator[tuple[dict[str, Any], Scores]]:
    """Yield each setting to choose from, and what a method with it scores: (M, D) -> (1, M, L)."""
    if method in GRIDS:
        for options in GRIDS[method]:
            yield options, _learn(method, inner, options)
        return
    for lr in RATES:
        torch.manual_seed(0)  # of the losses that draw pairs
        nets = train_nets(LOSSES[method], inner.train_x, inner.train_y, lr=lr, epochs=EPOCHS, seeds=1)
        for epoch, score in enumerate(nets, 1):
            if epoch in CHECKS:
                yield {"lr": lr, "epoch": epoch}, score


def _learn(method: str, split: Split, options: dict[str, Any]) -> Scores:
    if method in GRIDS:
        baseline = create_baseline(method, **options).fit(split.train_x, split.train_y)
        return lambda features: baseline.scores(features)[None]
    torch.manual_seed(0)
    nets = train_nets(LOSSES[method], split.train_x, split.train_y, lr=options["lr"], epochs=EPOCHS, seeds=SEEDS)
    return next(score for epoch, score in enumerate(nets, 1) if epoch == options["epoch"])


def _values(scores: Array, targets: Array, threshold: float) -> dict[str, float]:
    found = {name: METRICS[name](scores, targets) for name in RANKS}
    return {**found, "f1_samples": METRICS["f1_samples"]((scores >= threshold).astype(np.float32), targets)}


def best_threshold(scores: Array, targets: Array) -> float:
    """Return the score from which calling a label present gives the best mean F1 of videos, of 100 quantiles."""
    candidates = np.unique(np.quantile(scores, np.linspace(0.3, 0.999, 100)))
    carried = targets.sum(1)
    some = carried > 0
    f1 = []
    for candidate in candidates:
        chosen = scores >= candidate
        f1.append(np.mean(2 * (chosen & targets).sum(1)[some] / (chosen.sum(1) + carried)[some]))
    return float(candidates[int(np.argmax(f1))])


def _describe(splits: list[Split]) -> dict[str, Any]:
    first = splits[0]
    return {
        "train": len(first.train_x),
        "test": len(first.test_x),
        "splits": len(splits),
        "features": first.train_x.shape[1],
        "labels": first.train_y.shape[1],
        "labels_of_a_video": round(float(first.train_y.sum(1).mean()), 2),
    }


def _lead(metric: str, value: float, other: float) -> float:
    return other - value if metric in LOWER_IS_BETTER else value - other


def not_above_prior(methods: dict[str, Any]) -> list[str]:
    """Return `method set metric` of every value that is not better than the label prior's."""
    return [
        f"{method} {name} {metric}"
        for method, sets in methods.items()
        if method != "prior"
        for name, values in sets.items()
        for metric, value in values.items()
        if _lead(metric, value, methods["prior"][name][metric]) <= 0
    ]


def best_losses(methods: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return, for every set and metric, the loss that is best."""
    named = {method: sets for method, sets in methods.items() if method not in GRIDS}
    if not named:
        return {}
    first = next(iter(named.values()))
    return {
        name: {
            metric: max(named, key=lambda method: _lead(metric, named[method][name][metric], 0.0))
            for metric in first[name]
        }
        for name in first
    }


def markdown(methods: dict[str, Any]) -> str:
    """Return one table a metric, methods by sets, the best loss of each column in bold."""
    best = best_losses(methods)
    names = list(next(iter(methods.values())))
    lines = []
    for metric in (*RANKS, "f1_samples"):
        lines += [f"\n| {metric} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for method, sets in methods.items():
            values = [f"{sets[name][metric]:.3f}" for name in names]
            wins = [best.get(name, {}).get(metric) == method for name in names]
            cells = [f"**{value}**" if win else value for value, win in zip(values, wins, strict=True)]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)
