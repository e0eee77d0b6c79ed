"""`reeltag demo`: everything once, on clips made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, log, print_json, print_table


def demo(
    out: Annotated[Path | None, typer.Option(help="A new folder; demo, demo-2, ... when not given.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Within a minute: few clips, appearance and sound.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make clips, train on pictures, flow and sound, fuse and calibrate, write a report, and tag an unseen clip.

    Example: reeltag demo --quick --out /tmp/demo
    """
    from reeltag.bench.demo import run_demo

    result = run_demo(out or _free_folder(), quick=quick, console=log())
    if as_json:
        print_json({"report": str(result.report), "runs": {name: str(run) for name, run in result.runs.items()},
                    "ensemble": str(result.ensemble), "measured": result.measured, "seconds": round(result.seconds, 1),
                    "truth": result.truth, "tags": result.tags.to_dict(5)})  # fmt: skip
        return
    groups = ("appearance", "motion", "order", "scene", "sound")
    rows = [(name, *(found[group] for group in groups)) for name, found in result.measured.items()]
    print("mean AP on unseen clips, by kind of label:")
    print_table(["model", *groups], rows)
    print(f"an unseen clip, {result.tags.video}, carries {', '.join(result.truth)}; its five best tags:")
    best = result.tags.to_dict(5)["labels"]
    marks = {True: "yes", False: ""}
    rows = [(row["label"], row["score"], row["threshold"], marks[row["present"]]) for row in best]
    print_table(["label", "calibrated score", "threshold", "present"], rows)
    print(f"report: {result.report}   ({result.seconds:.0f} s in all)")
    print(f"next: reeltag tag {result.ensemble} YOUR_VIDEO.mp4")


def _free_folder() -> Path:
    """The first of demo, demo-2, ... that holds no demonstration yet."""
    path, number = Path("demo"), 1
    while (path / "runs").exists():
        number += 1
        path = Path(f"demo-{number}")
    return path
