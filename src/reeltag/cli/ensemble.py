"""`reeltag ensemble`: late fusion of the scores of several models."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reeltag.cli.compare import short_name
from reeltag.cli.console import AsJson, log, print_json, print_table

if TYPE_CHECKING:
    from reeltag.inference.ablation import AblationRow
    from reeltag.inference.aligned import Named

app = typer.Typer(help="Fit and apply late fusion over score files; modalities may be missing.", no_args_is_help=True)
Given = Annotated[
    list[str],
    typer.Argument(
        metavar="SCORES...", help="Score files or run folders, PATH or NAME=PATH (one name a modality, for --ablate)."
    ),
]


class Method(StrEnum):
    """How an ensemble is found."""

    mean = "mean"
    weighted = "weighted"
    greedy = "greedy"
    rank = "rank"
    stack = "stack"
    svm = "svm"


class Of(StrEnum):
    """What is averaged, or added up."""

    probabilities = "probabilities"
    logits = "logits"
    evidence = "evidence"


@app.command("fit")
def fit(
    scores: Given,
    out: Annotated[Path, typer.Option(help="The ensemble to write, a JSON file.")],
    method: Annotated[
        Method,
        typer.Option(
            help="Equal weights; weights with the best metric, by steps or by adding members; the mean of ranks; or "
            "for each label a regression (stack) or an SVM on the members' scores."
        ),
    ] = Method.mean,
    metric: Annotated[str, typer.Option(help="What weights make large: map_macro, map_samples or gap.")] = "map_macro",
    of: Annotated[
        Of | None,
        typer.Option(
            help="What mean, weighted and greedy average (probabilities); evidence, what each member adds to what it "
            "always says, is added up."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which score file of a run folder.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Make an ensemble of models from their scores, usually those of the validation split.

    Example: reeltag ensemble fit rgb=runs/rgb audio=runs/audio --method weighted --out both.json
    """
    from reeltag.errors import ReeltagError
    from reeltag.inference.ensemble_fit import FIT_METRICS, fit_ensemble

    if metric not in FIT_METRICS:
        raise ReeltagError(f"--metric {metric!r} is none of {', '.join(FIT_METRICS)}")
    if of is not None and method.value in ("rank", "stack", "svm"):
        raise ReeltagError(f"--of is for --method mean, weighted and greedy; {method.value} has its own")
    members = _read(scores, split)
    made = fit_ensemble(members, method=method.value, of=None if of is None else of.value, metric=metric)
    made.write(out, [path if path.is_dir() else None for _, path in map(_named, scores)])
    if as_json:
        print_json(json.loads(out.read_text(encoding="utf-8")))
        return
    rows = [
        (member.name, member.weight, made.fitted.get(f"alone: {place} {member.name}", "-"))
        for place, member in enumerate(made.members, 1)
    ]
    print_table(["member", "weight", f"{metric} alone"], rows)
    if metric in made.fitted:
        held = f", {made.fitted['held out']:.4f} on held-out fifths" if "held out" in made.fitted else ""
        print(f"{metric} of the ensemble {made.fitted[metric]:.4f}{held}, with equal weights {made.fitted['mean']:.4f}")
    print(f"apply it to another split: reeltag ensemble apply {out} SCORES... --split test --out fused.parquet")
    if all(path.is_dir() for _, path in map(_named, scores)):
        print(f"or tag with it: reeltag tag {out} VIDEO...")


@app.command("apply")
def apply(
    ensemble: Annotated[str, typer.Argument(help="What `fit` wrote, or a name of `reeltag list ensembles`.")],
    scores: Given,
    out: Annotated[Path | None, typer.Option(help="The score file to write, .parquet.")] = None,
    split: Annotated[str, typer.Option(help="Which score file of a run folder.")] = "val",
    by_place: Annotated[
        bool, typer.Option("--by-place", help="Take scores for members in their order, whatever weights made them.")
    ] = False,
    ablate: Annotated[bool, typer.Option("--ablate", help="Also measure without each name, and each alone.")] = False,
    groups: Annotated[
        Path | None, typer.Option(help='A JSON file {"group": ["label", ...]}, measured apart by --ablate.')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fuse the scores of an ensemble's members; a video counts by the members that cover it.

    Example: reeltag ensemble apply both.json rgb=runs/rgb audio=runs/audio --split test --out fused.parquet --ablate
    """
    from reeltag.inference.ablation import ablation
    from reeltag.inference.ensemble import Ensemble
    from reeltag.metrics.evaluate import evaluate_scores

    made, members = Ensemble.read(ensemble), _read(scores, split)
    fused = made.apply(members, by_place=by_place)
    if out is not None:
        fused.write(out)
    covered = len(fused.video_ids) if fused.covered is None else int(fused.covered.sum())
    values = {} if fused.targets is None else evaluate_scores(fused.values, fused.targets, fused.ignore).values
    wanted = _groups(groups) if groups is not None else {}
    rows = ablation(made, members, groups=wanted, by_place=by_place) if ablate else []
    if as_json:
        plain = {name: None if value != value else value for name, value in values.items()}  # NaN is no JSON
        facts = {"videos": len(fused.video_ids), "covered": covered, "scores": None if out is None else str(out)}
        print_json({**facts, "values": plain, "ablation": [_plain(row) for row in rows]})
        return
    if rows:
        columns = [*rows[0].values, *rows[0].groups]
        lines = [(row.what, *row.values.values(), *row.groups.values(), f"{row.covered:.0%}") for row in rows]
        print_table(["members", *columns, "covered"], lines)
    elif values:
        print_table(["metric", "value"], list(values.items()))
    print(f"{len(fused.video_ids)} videos, {covered} covered by a member")
    if out is None:
        log().print("nothing written; --out FILE.parquet keeps the fused scores")
    else:
        print(out)


def _read(given: list[str], split: str) -> list[Named]:
    from reeltag.store.scores import Scores

    pairs = [_named(text) for text in given]
    paths = [path for _, path in pairs]
    files = [path / "scores" / f"{split}.parquet" if path.is_dir() else path for path in paths]
    return [
        (name or short_name(path, paths), Scores.read(file)) for (name, path), file in zip(pairs, files, strict=True)
    ]


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if equals and "/" not in name and not Path(text).exists():
        return name, Path(path)
    return "", Path(text)


def _groups(path: Path) -> dict[str, list[str]]:
    from reeltag.errors import StoreError

    try:
        found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): list(labels) for name, labels in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        detail = str(error).splitlines()[0]
        raise StoreError(f'{path} is not a JSON file of the form {{"group": ["label", ...]}} ({detail})') from None


def _plain(row: AblationRow) -> dict[str, object]:
    from dataclasses import asdict

    plain = asdict(row)
    for key in ("values", "groups"):
        plain[key] = {name: None if value != value else value for name, value in plain[key].items()}
    return plain
