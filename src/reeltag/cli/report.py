"""`reeltag report`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that have been evaluated.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the first run when not given.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Show this split alone; without it all, and the details of test before val.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="For thumbnails; the run's own when not given.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also a picture of clips with their six best predictions, .png, .pdf or .svg.")
    ] = None,
) -> None:
    """Write one HTML page: metrics by name, per-label bars, loss and reliability curves, best and worst clips.

    Example: reeltag report runs/first --out first.html
    """
    from reeltag.report.from_runs import figure_of_run, report_runs

    if figure is not None:
        print(figure_of_run(runs[0], figure, split=split, manifest=manifest))
    print(report_runs(runs, out or runs[0] / "report.html", split=split, manifest=manifest))
