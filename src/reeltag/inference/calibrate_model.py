"""Calibrate what tags videos, on a split with truth: a run folder, a bundle, an ensemble, or a file of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reeltag.data.footage import open_footage
from reeltag.data.splitting import with_splits
from reeltag.errors import ReeltagError, StoreError
from reeltag.hub.bundle import TrainedModel, read_trained, store_calibration
from reeltag.inference.calibrate import Method, Rule, fit_calibration
from reeltag.inference.ensemble import Ensemble, find_ensemble
from reeltag.inference.evaluate import evaluate
from reeltag.inference.label_thresholds import Goal
from reeltag.inference.load import load_trained
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores

Say = Callable[[str], None]


@dataclass(frozen=True)
class ScoredOn:
    """Where scores with truth come from.

    Attributes:
        manifest: a manifest, or a folder of `data pack` or `extract`; None takes the scores that an evaluation has
            left, and the manifest of the training where there are none.
        split: of it.
        checkpoint: `last` or `best`, of run folders.
        device: a torch device, or `auto`.
        workers: loader processes; None chooses.
        say: is told what is done.
        progress: wraps the batches, for a progress bar.
    """

    manifest: Path | None = None
    split: str = "val"
    checkpoint: str = "last"
    device: str = "auto"
    workers: int | None = None
    say: Say = lambda text: None
    progress: Any = None


@dataclass(frozen=True)
class Calibrated:
    """A calibration, where it was stored, and the scores that it was fitted on."""

    calibration: Calibration
    path: Path
    scores: Scores


def calibrate(
    model: str | Path,
    on: ScoredOn | None = None,
    *,
    into: Path | None = None,
    method: Method = "temperature",
    rule: Rule = "auto",
    goal: Goal | None = None,
) -> Calibrated:
    """Fit a calibration and store it where tagging finds it.

    Args:
        model: a run folder, a bundle, an ensemble's JSON file, or a score file (.parquet).
        on: where scores come from; not asked for a score file.
        into: the run folder, bundle or ensemble that gets it; None = `model`, or the run folder that a score file lies
            in.
        method: of the lines; `rule` of the thresholds, and its `goal`: see `fit_calibration`.

    Raises:
        StoreError: nothing there, no truth, or nowhere to store it.
        ReeltagError: whatever evaluation finds wrong.
    """
    source, on = Path(model), ScoredOn() if on is None else on
    if source.suffix == ".parquet":
        scores, target = Scores.read(source), into or _owner(source)
    elif source.suffix == ".json":
        scores, target = _ensemble_scores(source, on), into or find_ensemble(str(source))
    else:
        scores, target = model_scores(source, on), into or source
    made = fit_calibration(scores, method=method, rule=rule, goal=goal)
    _store(made, target)
    return Calibrated(made, target, scores)


def _owner(scores: Path) -> Path:
    folder = scores.resolve().parent.parent
    if scores.resolve().parent.name == "scores" and any((folder / n).is_file() for n in ("run.json", "config.json")):
        return folder
    raise ReeltagError(
        f"{scores} lies in no run folder; say with --into which run, bundle or ensemble they are scores of"
    )


def _store(made: Calibration, target: Path) -> None:
    """Write a calibration into an ensemble's file, or into a model's folder if it is of these weights."""
    if target.suffix == ".json":
        ensemble = Ensemble.read(target)
        if ensemble.label_names not in (None, made.label_names):
            raise StoreError(f"{target} has other labels than these scores; calibrate on scores of this ensemble")
        known = {member.weights_hash for member in ensemble.members}
        if made.weights_hash in known and len(known) > 1:
            raise StoreError(f"these are scores of one member of {target}; calibrate on what `ensemble apply` writes")
        ensemble.model_copy(update={"calibration": made.model_copy(update={"weights_hash": ""})}).write(target)
        return
    checkpoints = ("last", "best") if (target / "run.json").is_file() else ("last",)
    held = {read_trained(target, checkpoint=checkpoint).weights_hash for checkpoint in checkpoints}
    if made.weights_hash and made.weights_hash not in held:
        raise StoreError(
            f"the scores are of weights {made.weights_hash[:12]}, and {target} holds "
            f"{', '.join(sorted(other[:12] for other in held))}; evaluate it again, then calibrate"
        )
    store_calibration(made, target)


def model_scores(folder: Path, on: ScoredOn) -> Scores:
    """Return the scores of a run folder or a bundle on a split: those that an evaluation left, or new ones, which stay.

    Scores are taken as they are found if they are of these weights and, where a manifest is given, of it.
    """
    trained = read_trained(folder, checkpoint=on.checkpoint)
    file = folder / "scores" / f"{on.split}.parquet"
    kept = Scores.read(file) if file.is_file() else None
    if kept is not None and kept.weights_hash != trained.weights_hash:
        kept = None
    if kept is not None and on.manifest is None:
        on.say(f"scores of {file}")
        return kept
    place = on.manifest or _manifest_of(trained)
    footage, note = with_splits(open_footage(place))
    if kept is not None and kept.manifest_hash == footage.manifest.hash:
        on.say(f"scores of {file}")
        return kept
    if note:
        on.say(note)
    on.say(f"scoring {on.split} of {place} with {folder}")
    loaded = load_trained(str(folder), device=on.device, checkpoint=on.checkpoint)
    found = evaluate(loaded, footage, split=on.split, workers=on.workers, progress=on.progress)
    found.scores.write(file)
    return found.scores


def _manifest_of(trained: TrainedModel) -> Path:
    place = Path(trained.run.facts["manifest"]) if trained.run is not None else None
    if place is None or not place.exists():
        raise ReeltagError(
            f"{trained.path} holds no scores of these weights, and "
            f"{'its manifest has moved' if place is not None else 'it knows no manifest'}; give --manifest"
        )
    return place


def _ensemble_scores(file: Path, on: ScoredOn) -> Scores:
    """Return what an ensemble says of a split, from the scores of its members' models."""
    ensemble, path = Ensemble.read(file), find_ensemble(str(file))
    if unknown := [member.name for member in ensemble.members if not member.model]:
        raise StoreError(
            f"{file} does not say where the model of {unknown[0]!r} lies; write scores with `reeltag ensemble apply "
            f"{file} SCORES... --out fused.parquet`, then `reeltag calibrate fused.parquet --into {file}`"
        )
    named = [(member.name, model_scores(path.parent / member.model, on)) for member in ensemble.members]
    return ensemble.apply(named)
