"""The command line: one file a verb, heavy imports only inside the verb that is called."""

from __future__ import annotations

import os
import sys

import typer

from reeltag.cli import (
    bench,
    calibrate,
    compare,
    convert,
    data,
    demo,
    ensemble,
    evaluate,
    export,
    extract,
    flow,
    listing,
    new,
    report,
    serve,
    tag,
    train,
)
from reeltag.errors import ReeltagError

app = typer.Typer(
    name="reeltag",
    help="Multi-label video tagging: from a folder of videos to a trained, evaluated and explained tagger.",
    epilog="Start with: reeltag demo --quick",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("new")(new.new)
app.add_typer(data.app, name="data")
app.command("extract")(extract.extract)
app.command("flow")(flow.flow)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("calibrate")(calibrate.calibrate)
app.command("tag")(tag.tag)
app.add_typer(ensemble.app, name="ensemble")
app.command("report")(report.report)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("convert")(convert.convert)
app.command("list")(listing.list_names)
app.command("bench")(bench.bench)


def main() -> None:
    """Run the command line; a user's error is one line on standard error and exit code 2."""
    # Torch's threads wait by spinning and stall each other as soon as another program runs: a step of 0.33 s took 7 s,
    # and 2.5 s like this. On an idle machine it costs 3 % on the smallest nets. Torch reads it when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Several processes: DDP would warn, once a process, of a search for unused parameters that is wanted here.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app()
    except ReeltagError as error:
        who = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""
        print(f"error{who}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
