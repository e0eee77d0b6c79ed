"""`reeltag export`: a trained model as one portable file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltag.cli.console import AsJson, Flow, bar, log, print_json

if TYPE_CHECKING:
    from reeltag.inference.export.check import Checked
    from reeltag.inference.export.exporting import Exported


def export(
    model: Annotated[str, typer.Argument(help="A run folder or a bundle.")],
    out: Annotated[Path, typer.Option(help="The file, ending in .onnx or .pt2.")],
    format: Annotated[str | None, typer.Option(help="onnx or pt2; the ending of --out when not given.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare the file with the model, and time both.")] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="For --check: real clips, a manifest or a folder of `data pack` or `extract`.")
    ] = None,
    split: Annotated[str, typer.Option(help="For --check: which clips; `all` takes every one.")] = "val",
    at_most: Annotated[int | None, typer.Option("--max", min=1, help="For --check: at most this many clips.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="For --check: the largest difference of a probability.")
    ] = 1e-4,
    views: Annotated[
        str | None, typer.Option(help="CLIPSxCROPS, for example 10x3, for the file's facts; the recipe's by default.")
    ] = None,
    flow: Flow = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    as_json: AsJson = False,
) -> None:
    """Write a trained model as one file that runs without reeltag: uint8 clips in, probabilities out.

    Example: reeltag export runs/first --format onnx --out tagger.onnx --check --manifest packed/
    """
    from reeltag.errors import ReeltagError
    from reeltag.inference.export.check import check as check_file
    from reeltag.inference.export.exporting import export as export_model
    from reeltag.inference.export.exporting import open_exported

    if manifest is not None and not check:
        raise ReeltagError(f"--manifest {manifest} is for --check; add --check, or leave it out")
    footage = None
    if manifest is not None:
        from reeltag.data.footage import open_footage
        from reeltag.data.splitting import with_splits

        opened = open_footage(manifest, flow)  # before the work: a manifest that is not there is said at once
        footage, note = with_splits(opened) if split != "all" else (opened, None)
        if note:
            log().print(note)
    exported = export_model(
        model, out, format=format, views=views, checkpoint=checkpoint, progress=lambda text: log().print(text)
    )
    checked = None
    if check:
        checked = check_file(
            exported, open_exported(out), footage, split=split, at_most=at_most, progress=bar("checking")
        )
    facts = _facts(exported, checked, tolerance)
    if as_json:
        print_json(facts)
    else:
        _print(facts, checked)
    if checked is not None and not checked.holds(tolerance):
        raise typer.Exit(1)


def _facts(exported: Exported, checked: Checked | None, tolerance: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "file": str(exported.path),
        "format": exported.format,
        "num_bytes": exported.num_bytes,
        "inputs": exported.facts["inputs"],
        "outputs": exported.facts["outputs"],
        "difference_of_logits": exported.difference,
    }
    if checked is not None:
        found["check"] = {**vars(checked), "tolerance": tolerance, "holds": checked.holds(tolerance)}
    return found


def _print(facts: dict[str, Any], checked: Checked | None) -> None:
    for kind in ("inputs", "outputs"):
        for each in facts[kind]:
            print(f"{kind[:-1]:6} {each['name']} {each.get('dtype', 'float32')} ({', '.join(map(str, each['shape']))})")
    print(f"logits differ from the model's by {facts['difference_of_logits']:.1e} of their deviation on drawn inputs")
    if checked is not None:
        for line in checked.bad:
            print(f"unreadable: {line['path']}: {line['reason']}: {line['message']}")
        verdict = "holds" if facts["check"]["holds"] else "DOES NOT HOLD"
        print(
            f"check on {checked.num_videos} {checked.on} {verdict}: largest difference of a probability "
            f"{checked.largest:.1e} (at most {facts['check']['tolerance']:g}), present labels agree in "
            f"{checked.num_equal} of {checked.num_decisions}"
        )
        print(f"one view, fp32, batch of 1: model {checked.ms_model:.1f} ms, file {checked.ms_file:.1f} ms")
    print(f"{facts['file']} {facts['num_bytes'] / 1e6:.1f} MB")
