"""`reeltag list`: what is there, by kind and pattern."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from reeltag.cli.console import AsJson, print_json, print_table


class Kind(StrEnum):
    """The kinds of names."""

    models = "models"
    backbones = "backbones"
    layers = "layers"
    losses = "losses"
    metrics = "metrics"
    recipes = "recipes"
    ensembles = "ensembles"
    formats = "formats"
    sources = "sources"
    labels = "labels"
    benchmarks = "benchmarks"


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    pattern: Annotated[str, typer.Argument(help="A shell pattern, such as '*resnet50*'.")] = "*",
    long: Annotated[bool, typer.Option("--long", help="Also say what each is.")] = False,
    as_json: AsJson = False,
) -> None:
    """List names of one kind.

    Example: reeltag list backbones '*resnet50*'
    """
    rows = names_of(kind, pattern, long)
    if as_json:
        print_json(rows)
    elif long:
        columns = list(rows[0]) if rows else ["name"]
        print_table(columns, [[row[column] for column in columns] for row in rows])
    else:
        for row in rows:
            print(row["name"])


def names_of(kind: Kind, pattern: str, long: bool) -> list[dict[str, Any]]:
    """Return a row for every name of a kind that matches a pattern."""
    from fnmatch import fnmatchcase

    if kind is Kind.recipes:
        from reeltag.recipe import list_recipes, load_recipe

        names = [name for name in list_recipes() if fnmatchcase(name, pattern)]
        return [
            {"name": n, **({"model": load_recipe(n).model.name, "row": load_recipe(n).source.row} if long else {})}
            for n in names
        ]
    if kind is Kind.ensembles:
        return _ensembles(pattern, long)
    if kind is Kind.backbones:
        from reeltag.models.image2d import list_backbones

        return [{"name": name} for name in list_backbones(pattern)]
    if kind is Kind.labels:
        from reeltag.data.vocab import vocabulary_names

        return [{"name": name} for name in vocabulary_names() if fnmatchcase(name, pattern)]
    registry = _registry(kind)
    rows: list[dict[str, Any]] = [{"name": name} for name in _names(kind, registry, pattern)]
    rows += [
        {"name": f"{prefix}<{key}>"} for prefix, (key, _) in registry.families.items() if fnmatchcase(prefix, pattern)
    ]
    if long:
        for row in rows:
            if kind is Kind.models:
                row.update(_cost(registry, row["name"]))
            row["what"] = _first_sentence(registry, row["name"])
    return rows


def _ensembles(pattern: str, long: bool) -> list[dict[str, Any]]:
    from fnmatch import fnmatchcase

    from reeltag.inference.ensemble import Ensemble, list_ensembles

    names = [name for name in list_ensembles() if fnmatchcase(name, pattern)]
    if not long:
        return [{"name": name} for name in names]
    shipped = {name: Ensemble.read(name) for name in names}
    return [
        {"name": name, "members": ", ".join(m.name for m in one.members), "row": one.source.row}
        for name, one in shipped.items()
    ]


def _names(kind: Kind, registry: Any, pattern: str) -> list[str]:
    if kind is Kind.models and pattern != "*":  # with members of open families; all of them would be a wall
        from reeltag.models import list_models

        return list_models(pattern)
    names: list[str] = registry.matching(pattern)
    return names


def _registry(kind: Kind) -> Any:
    if kind is Kind.models:
        from reeltag.models import MODELS

        return MODELS
    if kind is Kind.layers:
        from reeltag.layers import LAYERS

        return LAYERS
    if kind is Kind.losses:
        from reeltag.losses import LOSSES

        return LOSSES
    if kind is Kind.metrics:
        from reeltag.metrics import METRICS

        return METRICS
    if kind is Kind.sources:
        from reeltag.hub.convert import SOURCES

        return SOURCES
    if kind is Kind.benchmarks:
        from reeltag.bench import BENCHES

        return BENCHES
    from reeltag.data.importers import IMPORTERS

    return IMPORTERS


def _cost(registry: Any, name: str) -> dict[str, Any]:
    """Return parameters and multiply-accumulates of a model with 400 labels at its published size."""
    if "<" in name:
        return {"parameters": "", "gmacs": "", "input": ""}
    import torch

    with torch.device("meta"):
        model = registry.build(name, num_labels=400)
    inputs = model.example_input()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gmacs": round(model.flops(*inputs) / 2e9, 2),
        "input": " + ".join("x".join(map(str, tensor.shape[1:])) for tensor in _tensors(inputs)),
    }


def _tensors(inputs: Any) -> list[Any]:
    return [each for value in inputs for each in (value.values() if isinstance(value, dict) else (value,))]


def _first_sentence(registry: Any, name: str) -> str:
    builder = registry.families[name.split("<")[0]][1] if "<" in name else registry[name]
    text = getattr(getattr(builder, "func", builder), "__doc__", None) or ""
    return text.strip().split("\n")[0]
