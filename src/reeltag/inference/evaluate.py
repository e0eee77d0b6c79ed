"""Evaluation: score a split of a manifest with the recipe's test views, and write scores and every metric by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reeltag.build import build_datasets, rows_of
from reeltag.data.dataset import in_order, make_loader
from reeltag.data.footage import FeatureFootage, Footage
from reeltag.errors import RecipeError, ReeltagError, StoreError, TooManyBadFiles
from reeltag.hardware import default_workers
from reeltag.inference.calibrate import calibrated_values
from reeltag.inference.load import Loaded
from reeltag.inputs import check_input, modalities_of
from reeltag.metrics.evaluate import Results, evaluate_scores
from reeltag.models.scoring import score_videos
from reeltag.processes import current
from reeltag.recipe import Recipe
from reeltag.store.atomic import write_json
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores

CLIPS_IN_FLIGHT = 32


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        scores: probabilities of every readable video of the split; where the model had nothing to look at or to hear
            (`scores.covered`), the shares of the labels in training.
        results: metrics by name and the per-label table, on the average over views, over the covered videos.
        by_clip: metric values over single views (`@clip`); equal to `results.values` with one view.
        bad: the files that could not be read.
        over_all: metric values over all readable videos (`@all`); None when every one is covered.
    """

    scores: Scores
    results: Results
    by_clip: dict[str, float]
    bad: list[dict[str, Any]]
    over_all: dict[str, float] | None = None

    @property
    def num_covered(self) -> int:
        """Videos that the model had something of."""
        covered = self.scores.covered
        return len(self.scores.video_ids) if covered is None else int(covered.sum())


def with_views(recipe: Recipe, views: str | None) -> Recipe:
    """Return the recipe with its test views replaced by `CLIPSxCROPS` (`1x1`, `10x3`); None keeps its own."""
    if views is None:
        return recipe
    found = re.fullmatch(r"(\d+)x([13])", views)
    if not found:
        raise ReeltagError(f"--views {views!r} is not CLIPSxCROPS with 1 or 3 crops; for example 1x1 or 10x3")
    return recipe.replace(**{"test.clips": int(found[1]), "test.crops": int(found[2])})


def evaluate(
    loaded: Loaded,
    footage: Footage,
    *,
    split: str = "val",
    views: str | None = None,
    workers: int | None = None,
    progress: Any = None,
    without: Sequence[str] = (),
) -> Evaluation:
    """Score a split and compute every metric; several processes share the videos, and each returns the same.

    Args:
        loaded: the model.
        footage: the manifest's files or packed shards; its labels must be the model's.
        split: which clips; `all` takes every one.
        views: `CLIPSxCROPS` in place of the recipe's.
        workers: loader processes; None chooses.
        progress: wraps the iterable of batches, for a progress bar.
        without: modalities to count as missing in every video, to see what they carry.

    Raises:
        StoreError: the manifest has other labels than the model.
        RecipeError: the model does not fit the footage, or has no such modality.
        ManifestError: the split has no clip.
        TooManyBadFiles: no clip could be read, or none has what the model takes.
    """
    manifest, trained = footage.manifest, loaded.trained
    if list(manifest.label_names) != trained.label_names:
        raise StoreError(
            f"{trained.path} knows {len(trained.label_names)} labels ({_few(trained.label_names)}), the manifest "
            f"{len(manifest.label_names)} ({_few(list(manifest.label_names))}); evaluate with a manifest of its labels"
        )
    check_input(loaded.model, trained.recipe, footage)
    if isinstance(footage, FeatureFootage) and trained.features is not None:
        names = (str(trained.path), str(footage.store.folder))
        footage.store.source.require_equal(
            trained.features, names=names[::-1], cure="evaluate with features of the extractor it was trained on"
        )
    recipe = with_views(trained.recipe, views)
    rows = list(range(len(manifest))) if split == "all" else rows_of(manifest, split)
    modalities = modalities_of(recipe, loaded.model)
    _check_without(without, modalities)
    dataset = build_datasets(recipe, footage, modalities, without=without)[1]
    workers = default_workers(loaded.device, footage.packed) if workers is None else workers
    num_views = recipe.test.clips * recipe.test.crops
    processes = current()
    keys = in_order(processes.share(rows), max(1, CLIPS_IN_FLIGHT // num_views))
    batches: Any = make_loader(dataset, keys, workers=workers)
    if progress is not None and processes.is_main:
        batches = progress(batches)
    own = list(
        score_videos(
            loaded.model,
            batches,
            average=recipe.test.average,
            activation=recipe.test.activation,
            device=loaded.device,
            autocast=loaded.autocast,
        )
    )
    # Each video lies in one process's share, and shares are neighbours: in the order of ranks it is one process's list.
    found = [part for parts in processes.objects(own) for part in parts]
    bad = [line for part in found for line in part.bad]
    whole = [part for part in found if len(part.rows)]
    absent = [row for part in found for row in part.absent]
    if not whole:
        raise TooManyBadFiles(
            f"none of the {len(rows)} clips of the split {split!r} could be read: {len(bad)} bad, {len(absent)} with "
            "nothing that the model takes (no sound track, or a silent one); `reeltag data check`"
        )
    seen = torch.cat([part.rows for part in whole])
    values = torch.cat([part.scores for part in whole]).numpy()
    per_view = torch.cat([part.views for part in whole]).numpy()
    targets, ignore = dataset.targets[seen].numpy(), dataset.ignore[seen].numpy()
    results = evaluate_scores(values, targets, ignore, label_names=trained.label_names)
    by_clip = _by_clip(per_view, targets, ignore, results)
    over_all = covered = None
    if absent:
        prior = np.broadcast_to(_prior(loaded, footage), (len(absent), values.shape[1]))
        every = np.concatenate([seen.numpy(), absent])
        place = {row: number for number, row in enumerate(rows)}
        order = np.argsort([place[row] for row in every.tolist()])
        covered = np.arange(len(every))[order] < len(seen)
        seen = torch.from_numpy(every[order])
        values = np.concatenate([values, prior])[order]
        per_view = np.concatenate([per_view, np.repeat(prior[:, None], per_view.shape[1], 1)])[order]
        targets, ignore = dataset.targets[seen].numpy(), dataset.ignore[seen].numpy()
        over_all = evaluate_scores(values, targets, ignore).values
    scores = Scores(
        video_ids=[manifest.video_ids[row] for row in seen.tolist()],
        values=values,
        label_names=trained.label_names,
        kind="probability",
        targets=targets.astype(np.uint8),
        ignore=ignore if ignore.any() else None,
        split=split,
        recipe_hash=trained.recipe.hash,
        weights_hash=trained.weights_hash,
        manifest_hash=manifest.hash,
        views=per_view if per_view.shape[1] > 1 else None,
        view_names=list(dataset.view.names) if per_view.shape[1] > 1 else [],
        covered=covered,
    )
    return Evaluation(scores, results, by_clip, bad, over_all)


def _check_without(without: Sequence[str], modalities: Sequence[str]) -> None:
    for name in without:
        if name not in modalities:
            raise RecipeError(f"without {name!r}: the model takes {', '.join(modalities) or 'stored features'}")
    if without and set(without) == set(modalities):
        raise RecipeError(f"without {', '.join(without)} nothing is left that the model takes")


def _prior(loaded: Loaded, footage: Footage) -> Any:
    """Return (L,) float32, what is said of a video that nothing is known of: how often each label is in training."""
    if loaded.trained.label_shares is not None:
        return np.asarray(loaded.trained.label_shares, dtype=np.float32)
    train = rows_of(footage.manifest, "train", needed=False)
    if train:
        return footage.manifest.targets()[train].mean(0)
    return np.full(len(loaded.trained.label_names), 0.5, dtype=np.float32)


def _by_clip(per_view: Any, targets: Any, ignore: Any, results: Results) -> dict[str, float]:
    num_views = per_view.shape[1]
    if num_views == 1:
        return results.values
    flat = per_view.reshape(-1, per_view.shape[2])
    repeated = np.repeat(targets, num_views, axis=0), np.repeat(ignore, num_views, axis=0)
    return evaluate_scores(flat, *repeated).values


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def summary(evaluation: Evaluation, loaded: Loaded) -> dict[str, Any]:
    """Return what results.json holds: metrics, per-label table, counts, digests and what could not be read."""
    scores = evaluation.scores
    named = {f"{name}@clip": value for name, value in evaluation.by_clip.items()}
    return {
        **evaluation.results.to_dict(),
        "by_clip": {name: None if np.isnan(value) else value for name, value in named.items()},
        **_coverage(evaluation),
        **_decisions(evaluation, loaded.trained.calibration),
        "split": scores.split,
        "recipe_hash": scores.recipe_hash,
        "weights_hash": scores.weights_hash,
        "manifest_hash": scores.manifest_hash,
        "views": {"clips": loaded.trained.recipe.test.clips, "crops": loaded.trained.recipe.test.crops},
        "bad_files": evaluation.bad,
    }


def _coverage(evaluation: Evaluation) -> dict[str, Any]:
    """Return how many videos the metrics are over, and the same metrics over all, where these are more."""
    if evaluation.over_all is None:
        return {}
    total = len(evaluation.scores.video_ids)
    over_all = {f"{name}@all": None if np.isnan(value) else value for name, value in evaluation.over_all.items()}
    return {"coverage": {"covered": evaluation.num_covered, "videos": total}, "over_all": over_all}


def _decisions(evaluation: Evaluation, calibration: Calibration | None) -> dict[str, Any]:
    """Return what the calibration of the model makes of the scores, which are measured without it, if it has one."""
    if calibration is None or not calibration.does_something:
        return {}
    scores = evaluation.scores
    values = calibrated_values(scores, calibration)
    own = (calibration.split, calibration.manifest_hash) == (scores.split, scores.manifest_hash)
    return {
        "calibrated": {
            "method": calibration.method,
            "rule": calibration.rule,
            "fitted_on_these_videos": own,
            "values": {name: None if np.isnan(value) else value for name, value in values.items()},
        }
    }


def write_evaluation(evaluation: Evaluation, loaded: Loaded, out: Path) -> Path:
    """Write `scores/<split>.parquet` and `results.json` under `out` (the run folder or the bundle's side)."""
    evaluation.scores.write(out / "scores" / f"{evaluation.scores.split}.parquet")
    write_json(out / "results.json", summary(evaluation, loaded))
    return out / "results.json"


def publish_results(evaluation: Evaluation, loaded: Loaded, folder: Path = Path("results")) -> Path:
    """Write `results/<recipe>.json` with what was measured, beside what the recipe's source reported."""
    facts = loaded.trained.run.facts if loaded.trained.run else {}
    name = str(facts.get("recipe_name") or loaded.trained.path.name).removesuffix(".yaml").replace("/", "__")
    content = {"reported": loaded.trained.recipe.source.reported, **summary(evaluation, loaded)}
    write_json(folder / f"{name}.json", content)
    return folder / f"{name}.json"
