"""`reeltag evaluate`: every metric by name for a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, Device, Flow, Workers, bar, log, print_json, print_table


def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder or a bundle.")],
    manifest: Annotated[Path, typer.Option(help="A manifest, or a folder of `data pack` or `extract`.")],
    split: Annotated[str, typer.Option(help="Which clips; `all` takes every one.")] = "val",
    views: Annotated[
        str | None, typer.Option(help="CLIPSxCROPS, for example 10x3; the recipe's when not given.")
    ] = None,
    flow: Flow = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A modality to count as missing (rgb, flow, audio); may be given again.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    publish: Annotated[bool, typer.Option("--publish", help="Also write results/<recipe>.json.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where scores and results go; the model's folder by default.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Score a split and print every metric by name; writes scores/<split>.parquet and results.json.

    Example: reeltag evaluate runs/first --manifest packed/ --split test --views 3x1
    """
    from reeltag.data.footage import open_footage
    from reeltag.data.splitting import with_splits
    from reeltag.inference.evaluate import evaluate as evaluate_model
    from reeltag.inference.evaluate import publish_results, summary, write_evaluation
    from reeltag.inference.load import load_trained
    from reeltag.processes import join

    with join(device) as processes:
        loaded = load_trained(model, device=device, checkpoint=checkpoint)
        opened = open_footage(manifest, flow)
        footage, note = with_splits(opened) if split != "all" else (opened, None)
        if note and processes.is_main:
            log().print(note)
        found = evaluate_model(
            loaded,
            footage,
            split=split,
            views=views,
            workers=workers,
            progress=bar("evaluating"),
            without=without or (),
        )
    if not processes.is_main:
        raise typer.Exit(1 if found.bad else 0)
    folder = out or loaded.trained.path
    path = write_evaluation(found, loaded, folder)
    if publish:
        log().print(f"published {publish_results(found, loaded)}")
    facts = summary(found, loaded)
    if as_json:
        print_json(facts)
    else:
        results = found.results
        print_table(["metric", "value"], [(name, value) for name, value in results.values.items()])
        print(
            f"{results.num_videos} videos, {results.num_labels} labels; left out of means: "
            f"{results.labels_without_positives} labels without positives, {results.videos_without_labels} videos "
            f"without labels; {len(found.bad)} unreadable"
        )
        if found.over_all is not None:
            total, best = len(found.scores.video_ids), "map_macro"
            print(
                f"coverage {found.num_covered} of {total}: the others have nothing that the model takes; with the "
                f"labels' shares of training for these, {best}@all {found.over_all[best]:.4f}"
            )
        if calibrated := facts.get("calibrated"):
            values = ", ".join(
                f"{name} {value:.4f}" for name, value in calibrated["values"].items() if value is not None
            )
            flattering = " (fitted on these very videos)" if calibrated["fitted_on_these_videos"] else ""
            print(f"calibrated{flattering}: {values}")
        print(path)
    if found.bad:
        raise typer.Exit(1)
