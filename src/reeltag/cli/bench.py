"""`reeltag bench`: measured speed and claims, each by a script that anybody can run."""

from __future__ import annotations

from typing import Annotated

import typer


def bench(
    name: Annotated[str, typer.Argument(help="A name of `reeltag list benchmarks`, or all: those that need no data.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What that benchmark takes, as key=value.")] = None,
) -> None:
    """Run one of our benchmarks and write its JSON; `all` runs those that need no data.

    Example: reeltag bench decode rounds=15
    """
    from reeltag.bench import run_bench

    run_bench(name, arguments or [])
