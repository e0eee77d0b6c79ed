"""`reeltag extract`: the features of every video, once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, Counter, Device, Workers, log, print_json


class Level(StrEnum):
    """What one feature vector describes."""

    frames = "frames"
    clips = "clips"


def extract(
    model: Annotated[str, typer.Argument(help="An image backbone by name, or a run or bundle on pixels or sound.")],
    manifest: Annotated[Path, typer.Argument(help="The manifest, or a folder that `data pack` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder of features to write, continue, add to or mend.")],
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Vectors a second; 1 for a backbone when nothing is given.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Vectors a video; a run's default is what its recipe tests.")
    ] = None,
    level: Annotated[Level | None, typer.Option(help="A vector a frame (backbones, TSN, TSM) or a clip.")] = None,
    pca: Annotated[
        int | None, typer.Option(min=1, help="Keep this many whitened components, fitted on the training split.")
    ] = None,
    quantize: Annotated[bool, typer.Option("--quantize", help="Store one byte a value, not two; needs --pca.")] = False,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--drawn", help="A backbone's published weights, or weights drawn at random.")
    ] = True,
    crop_px: Annotated[
        int | None, typer.Option(min=16, max=4096, help="The square that a backbone sees; its own by default.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    device: Device = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Store frame or clip features of every video; train, evaluate and report take the folder as a manifest.

    Give the same command again to go on after a stop, to add the manifest's new videos, or to make damaged shards anew.
    Features of other weights or settings are never mixed in.

    Example: reeltag extract vit_small_patch14_dinov2 manifest.parquet --out features/dino --fps 2
    """
    from dataclasses import asdict

    from reeltag.data.footage import FileFootage, PackedFootage, open_footage
    from reeltag.errors import ManifestError
    from reeltag.inference.extract import extract as extract_features
    from reeltag.inference.extractor import build_extractor

    footage = open_footage(manifest)
    if not isinstance(footage, FileFootage | PackedFootage):
        raise ManifestError(f"{manifest} holds features already; give the manifest of the videos, or a packed folder")
    extractor = build_extractor(
        model,
        fps=fps,
        num_frames=num_frames,
        level=None if level is None else level.value,
        pretrained=pretrained,
        crop_px=crop_px,
        checkpoint=checkpoint,
        device=device,
    )
    console = log()
    with Counter("extracting") as progress:
        report = extract_features(
            extractor,
            footage,
            out,
            pca=pca,
            quantize=quantize,
            workers=workers,
            progress=progress,
            note=lambda text: console.print(text, markup=False, soft_wrap=True),
        )
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
    else:
        mended = f", {report.mended} damaged shards made anew" if report.mended else ""
        print(
            f"{report.folder}: {report.videos} videos ({report.made} made now{mended}), {report.vectors} vectors of "
            f"{sum(report.feature_sizes)}, {report.num_bytes / 1e6:.1f} MB, {len(report.bad)} unreadable"
        )
        console.print(f"next: reeltag train demo/frozen_features --manifest {report.folder}", markup=False)
    if report.bad:
        console.print(f"{report.folder / 'bad_files.jsonl'} says why each was left out", markup=False)
        raise typer.Exit(1)
