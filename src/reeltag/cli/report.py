"""`reeltag report`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that have been evaluated.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the first run when not given.")] = None,
    split: Annotated[str, typer.Option(help="Which score file.")] = "val",
    manifest: Annotated[Path | None, typer.Option(help="For thumbnails; the run's own when not given.")] = None,
) -> None:
    """Write one HTML page: metrics by name, per-label bars, loss curves, best and worst clips.

    Example: reeltag report runs/first --out first.html
    """
    from reeltag.report.from_runs import report_runs

    print(report_runs(runs, out or runs[0] / "report.html", split=split, manifest=manifest))
