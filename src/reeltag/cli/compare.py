"""`reeltag compare`: runs, or groups of seeds, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, print_json, print_table


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of seeds (`train --seeds N`).")],
    split: Annotated[str, typer.Option(help="Which score files.")] = "val",
    metric: Annotated[
        list[str] | None, typer.Option(help="Metrics that get an interval; map_macro by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the metrics of runs side by side, with paired intervals of their differences.

    Example: reeltag compare runs/tsn runs/tsm --split test
    """
    from reeltag.inference.compare import compare as compare_groups

    groups = {short_name(path, runs): _seeds(path) for path in runs}
    comparison = compare_groups(groups, split=split, metrics=metric or ["map_macro"])
    if as_json:
        print_json(comparison.to_dict())
        return
    columns, *rows = comparison.to_rows()
    print_table(columns, rows, title=f"{comparison.num_videos} videos of {split!r}; the first group is the baseline")


def short_name(path: Path, runs: list[Path]) -> str:
    """Return the shortest end of a path that tells the runs apart."""
    for parts in range(1, len(path.resolve().parts)):
        name = "/".join(path.resolve().parts[-parts:])
        if sum("/".join(other.resolve().parts[-parts:]) == name for other in runs) == 1:
            return name
    return str(path)


def _seeds(path: Path) -> list[Path]:
    if not path.is_dir() or (path / "recipe.yaml").is_file():
        return [path]
    return sorted(folder.parent for folder in path.glob("*/recipe.yaml")) or [path]
