"""`reeltag calibrate`: probabilities to be taken at their word, and a threshold for each label."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reeltag.cli.console import AsJson, Device, Workers, bar, log, print_json, print_table

if TYPE_CHECKING:
    from reeltag.store.calibration import Calibration


class Method(StrEnum):
    """Of the lines through logits."""

    none = "none"
    temperature = "temperature"
    platt = "platt"


class Rule(StrEnum):
    """Of the thresholds."""

    auto = "auto"
    half = "half"
    shared = "shared"
    label = "label"
    expected = "expected"


def calibrate(
    model: Annotated[str, typer.Argument(help="A run folder, a bundle, an ensemble, or a score file.")],
    manifest: Annotated[
        Path | None,
        typer.Option(help="A manifest or packed folder to score; without it, the scores that `evaluate` left."),
    ] = None,
    split: Annotated[str, typer.Option(help="Videos that the model was not trained on.")] = "val",
    method: Annotated[
        Method, typer.Option(help="One temperature for all labels (changes no ranking), or a line for each (platt).")
    ] = Method.temperature,
    thresholds: Annotated[
        Rule,
        typer.Option(help="0.5, one for all, one a label, half the best F1 that is expected, or the best of these."),
    ] = Rule.auto,
    goal: Annotated[str, typer.Option(help="f1_micro, f1_macro, precision=P or recall=R.")] = "f1_micro",
    into: Annotated[
        Path | None, typer.Option(help="For a score file: the run folder, bundle or ensemble whose scores it holds.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    device: Device = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Fit temperature and thresholds on validation scores and store them beside the model, where tagging finds them.

    Example: reeltag calibrate runs/first --manifest packed
    """
    from reeltag.inference.calibrate_model import ScoredOn, calibrate
    from reeltag.inference.label_thresholds import Goal

    wanted = Goal.parse(goal)
    said = partial(log().print, soft_wrap=True)
    on = ScoredOn(manifest, split, checkpoint, device, workers, said, bar("scoring"))
    found = calibrate(model, on, into=into, method=method.value, rule=thresholds.value, goal=wanted)
    made = found.calibration
    if as_json:
        print_json({**json.loads(made.model_dump_json()), "stored": str(found.path)})
        return
    _show(made)
    print(f"stored in {found.path}; `reeltag tag` and `reeltag evaluate` of it use it from now on")


def _show(made: Calibration) -> None:
    print(f"{made.videos} videos of {made.split or 'the scores'}; each value is of videos that it was not fitted on")
    for kind, chosen in (("lines", made.method), ("thresholds", made.rule)):
        rows = [
            (name.removeprefix(f"{kind}: "), values)
            for name, values in made.measured.items()
            if name.startswith(f"{kind}: ")
        ]
        columns = list(dict.fromkeys(metric for _, values in rows for metric in values))
        lines = [
            (f"{name} (chosen)" if name == chosen else name, *(values.get(metric, "-") for metric in columns))
            for name, values in rows
        ]
        print_table([kind, *columns], lines)
    if made.method == "temperature":
        print(
            f"temperature {1 / made.slopes[0]:.3f}: above 1 the model was too sure of itself, below 1 not sure enough"
        )
    loss = {name: made.measured[f"lines: {name}"]["log_loss"] for name in ("temperature", "platt")}
    if made.method != "platt" and loss["platt"] < 0.98 * loss["temperature"]:
        print("a line for each label (--method platt) would have a lower log loss; it moves labels against each other")
    low, high = min(made.thresholds), max(made.thresholds)
    print(f"thresholds for {made.goal}: {low:.3f}" + ("" if low == high else f" to {high:.3f}"))
