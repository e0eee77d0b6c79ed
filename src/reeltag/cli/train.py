"""`reeltag train`: a recipe and a manifest to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, Device, Flow, Workers, log, print_json, print_table


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of a shipped one (`reeltag list recipes`).")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes of the form section.key=value.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="A manifest, or a folder of `data pack` or `extract`.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/<recipe>/<time> when not given.")] = None,
    flow: Flow = None,
    device: Device = "auto",
    workers: Workers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint of --out.")] = False,
    shard: Annotated[
        bool, typer.Option("--shard", help="With several processes: weights and optimiser in parts (FSDP).")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Train this many runs, from train.seed on.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the recipe, its cost and its time; train nothing.")
    ] = (False),
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Raise the learning rate step by step and suggest one; trains nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe; the run folder holds checkpoints, metrics, results and a report.

    Several processes: torchrun or `accelerate launch`, then `-m reeltag train ...`.

    Example: reeltag train demo/tsm_resnet18_112 --manifest packed/ --out runs/first train.epochs=20
    """
    from reeltag.engine.run_recipe import TrainCall, dry_run_recipe, find_lr_recipe, train_recipe
    from reeltag.processes import join

    console = log()
    call = TrainCall(recipe, tuple(overrides or ()), manifest, out, device, workers, resume, shard, flow)
    if dry_run:
        facts = dry_run_recipe(call)
        if as_json:
            print_json(facts)
        else:
            print(facts.pop("recipe"))
            print_table(["what", "value"], facts.items())
        return
    if find_lr:
        found = find_lr_recipe(call, console)
        if as_json:
            print_json(found)
        else:
            print(f"train.lr={found['suggestion']:.3g}")
            console.print(f"the loss fell fastest there; curve in {found['plot']}")
            if found["fell"] < 0.05:
                console.print(
                    f"but it fell by {found['fell']:.0%} in all: too little to choose a rate by; look at the curve"
                )
        return
    with join(device) as processes:
        finished = [train_recipe(call, seed, console, many=seeds > 1) for seed in range(seeds)]
    if not processes.is_main:
        return
    if as_json:
        print_json(finished)
        return
    for run in finished:
        print(run["run"])
    console.print(f"next: reeltag evaluate {finished[0]['run']} --manifest {manifest or 'MANIFEST'}")
