"""From a call of `reeltag train` to a finished run folder: manifest, parts, training, and the honest last numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from reeltag.build import Parts, build_parts, check, fit_to_footage
from reeltag.data.feature_source import SOURCE_FILE, FeatureSource
from reeltag.data.footage import FeatureFootage, Footage, open_footage
from reeltag.data.splitting import with_splits
from reeltag.engine.cost import predict_cost
from reeltag.engine.find_lr import find_lr, write_curve
from reeltag.engine.loop import Trainer
from reeltag.engine.monitor import Monitor, format_s
from reeltag.errors import RecipeError, StoreError
from reeltag.processes import Processes, join, launched
from reeltag.recipe import Recipe, load_recipe
from reeltag.store.lock import ProcessLock
from reeltag.store.run import RunFolder, new_run_path


@dataclass(frozen=True)
class TrainCall:
    """What a person asked `reeltag train` for; see its options."""

    recipe: str
    overrides: tuple[str, ...] = ()
    manifest: Path | None = None
    out: Path | None = None
    device: str = "auto"
    workers: int | None = None
    resume: bool = False
    sharded: bool = False
    flow: Path | None = None


def train_recipe(call: TrainCall, seed: int, console: Console | None, *, many: bool = False) -> dict[str, Any]:
    """Train one run and return its folder, best and last values, and the time it took.

    Args:
        call: what was asked for.
        seed: added to the recipe's own; with `many`, the run goes into `OUT/seed<seed>`.
        console: where progress is shown; None shows nothing.
        many: whether this is one of several seeds.

    Raises:
        ReeltagError: bad input, nothing to resume, too many unreadable files, a loss that is not finite.
    """
    with join(call.device) as processes:
        return _train(call, seed, console if processes.is_main else None, processes, many=many)


def _train(call: TrainCall, seed: int, console: Console | None, processes: Processes, *, many: bool) -> dict[str, Any]:
    recipe = load_recipe(call.recipe, call.overrides)
    recipe = recipe.replace(**{"train.seed": recipe.train.seed + seed})
    out = call.out or processes.from_main(lambda: new_run_path(call.recipe))
    out = out / f"seed{recipe.train.seed}" if many else out
    if call.resume:
        run, recipe, footage = _reopen(call, out)
    else:
        footage = _open(call.manifest, call.flow, console)
        check(recipe)
        run = None
    parts = build_parts(recipe, footage)
    if run is None:
        facts = _facts(call, footage, parts)
        run = processes.from_main(lambda: RunFolder.create(out, parts.recipe, parts.label_names, facts))
    with _only_writer(run, processes):
        return _fit(call, run, parts, footage, Monitor(console, tensorboard=_events(run, processes)), processes)


@contextmanager
def _only_writer(run: RunFolder, processes: Processes) -> Iterator[None]:
    """Hold a run folder against other commands; StoreError on every process where one has it."""
    held: list[ProcessLock] = []
    processes.from_main(lambda: held.append(ProcessLock(run.path, "a training run")))
    try:
        yield
    finally:
        for lock in held:
            lock.close()


def _events(run: RunFolder, processes: Processes) -> Path | None:
    return run.path / "tensorboard" if processes.is_main else None


def _fit(
    call: TrainCall, run: RunFolder, parts: Parts, footage: Footage, monitor: Monitor, processes: Processes
) -> dict[str, Any]:
    started = time.monotonic()
    processes.from_main(lambda: _keep_source(run, footage))
    _describe(parts, run, monitor.console, processes.world)
    trainer = Trainer(parts, run, device=call.device, workers=call.workers, monitor=monitor, sharded=call.sharded)
    try:
        at = trainer.fit(resume=call.resume)
    except KeyboardInterrupt:
        monitor.note(
            f"interrupted at step {trainer.at.step} and saved; the same command with --out {run.path} --resume goes on"
        )
        raise
    taken_s = time.monotonic() - started
    monitor.note(f"done: {at.step} steps in {format_s(taken_s)}; {run.path}")
    last: dict[str, float] = next((line["val"] for line in reversed(list(run.metric_lines())) if "val" in line), {})
    return {"run": str(run.path), "steps": at.step, "seconds": round(taken_s, 1), "best": at.best, "val": last}


def _open(manifest: Path | None, flow: Path | None, console: Console | None) -> Footage:
    if manifest is None:
        raise RecipeError("no --manifest given; give a manifest (`reeltag data import` makes one) or a packed folder")
    footage, note = with_splits(open_footage(manifest, flow))
    if note and console is not None:
        console.print(note, markup=False, soft_wrap=True)
    return footage


def _reopen(call: TrainCall, out: Path) -> tuple[RunFolder, Recipe, Footage]:
    if call.out is None:
        raise StoreError("--resume needs --out, the run folder to go on with")
    run = RunFolder.open(out)
    recipe = run.recipe
    flow = call.flow or run.facts.get("flow")
    footage = _open(call.manifest or Path(run.facts["manifest"]), None if flow is None else Path(flow), None)
    asked = load_recipe(call.recipe, call.overrides).replace(**{"train.seed": recipe.train.seed})
    asked = fit_to_footage(asked, footage)
    if asked.hash != recipe.hash:
        raise StoreError(
            f"{out} was started with another recipe (its recipe.yaml); resume with the same one: "
            f"reeltag train {out / 'recipe.yaml'} --out {out} --resume"
        )
    if list(footage.manifest.label_names) != run.label_names:
        raise StoreError(
            f"{out} was trained on other labels than those of the manifest; give the manifest it began with"
        )
    if footage.manifest.hash != run.facts["manifest_hash"]:
        raise StoreError(f"the manifest has changed since {out} began; start a new --out, or give the old manifest")
    return run, recipe, footage


def _keep_source(run: RunFolder, footage: Footage) -> None:
    """Keep beside the run what made its features, which `reeltag tag` needs for a video; refuse others on resuming."""
    if not isinstance(footage, FeatureFootage):
        return
    store = footage.store
    if (run.path / SOURCE_FILE).exists():
        names = (str(run.path), str(store.folder))
        FeatureSource.read(run.path).require_equal(
            store.source, names=names, cure="resume with the features it began with"
        )
    else:
        store.source.copy_to(store.folder, run.path)


def _facts(call: TrainCall, footage: Footage, parts: Parts) -> dict[str, Any]:
    shares = parts.training.targets[parts.train_rows].double().mean(0)
    return {
        "manifest": str(Path(call.manifest).resolve()) if call.manifest else None,
        "manifest_hash": footage.manifest.hash,
        "flow": str(Path(call.flow).resolve()) if call.flow else None,
        "packed": footage.packed,
        "label_shares": [round(share, 6) for share in shares.tolist()],
        "recipe_name": call.recipe,
        "torch": torch.__version__,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _describe(parts: Parts, run: RunFolder, console: Console | None, world: int) -> None:
    if console is None:
        return
    parameters = sum(p.numel() for p in parts.model.parameters())
    console.print(
        f"{parts.recipe.model.name}: {parameters / 1e6:.2f} M parameters, {len(parts.label_names)} labels, "
        f"{len(parts.train_rows)} clips to train on, {len(parts.val_rows)} to validate on"
        f"{f', {world} processes' if world > 1 else ''}; writing {run.path}",
        markup=False,
        soft_wrap=True,
    )


def dry_run_recipe(call: TrainCall) -> dict[str, Any]:
    """Return the resolved recipe, parameters, GMACs, memory and the predicted time, without training."""
    recipe = load_recipe(call.recipe, call.overrides)
    check(recipe)
    footage = _open(call.manifest, call.flow, None) if call.manifest else None
    if footage is not None:
        recipe = fit_to_footage(recipe, footage)
    return {"recipe": recipe.to_yaml(), **predict_cost(recipe, footage, device=call.device, workers=call.workers)}


def find_lr_recipe(call: TrainCall, console: Console | None = None) -> dict[str, Any]:
    """Run the learning-rate range test, write `find_lr.json` and `find_lr.png`, and return the suggestion and paths.

    They go into `--out`, or into `find_lr/<recipe>`; a run that is already there is left as it is.

    Raises:
        RecipeError: several processes were started for it.
    """
    if launched() > 1:
        raise RecipeError(
            f"--find-lr trains on one process, and {launched()} were started; run it without the launcher"
        )
    recipe = load_recipe(call.recipe, call.overrides)
    check(recipe)
    footage = _open(call.manifest, call.flow, console)
    parts = build_parts(fit_to_footage(recipe, footage), footage)
    curve = find_lr(parts, device=call.device, workers=call.workers)
    out = call.out or Path("find_lr") / Path(call.recipe).with_suffix("").name
    return write_curve(curve, out, recipe.train.lr)
