"""`reeltag flow`: the optical flow of every video, once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, Counter, Device, log, print_json


class Method(StrEnum):
    """How flow is computed."""

    tvl1 = "tvl1"
    dis = "dis"
    raft = "raft"


class Form(StrEnum):
    """How flow is stored."""

    quantised = "quantised"
    image = "image"


def flow(
    manifest: Annotated[Path, typer.Argument(help="The manifest, or a folder that `data pack` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder to write, continue or mend; `flow` in a pack is found there.")],
    method: Annotated[Method | None, typer.Option(help="tvl1 (as published systems), dis (fast) or raft.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="The method dis: a hundred times faster than tvl1.")] = False,
    weights: Annotated[
        str | None, typer.Option(help="For raft: torchvision's file; or raft_small or raft_large, to download it.")
    ] = None,
    device: Device = "auto",
    step: Annotated[int, typer.Option(min=1, max=100, help="From a frame to the frame this many later.")] = 1,
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Let a step be 1 / fps seconds, not a frame; 15 for images.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Keep this many evenly spaced fields a video.")] = None,
    form: Annotated[Form, typer.Option(help="quantised (2 channels) or image (3, the last one zero).")] = (
        Form.quantised
    ),
    bound_px: Annotated[
        float | None, typer.Option(min=0.01, help="Longer vectors are clipped; 20, or 40 for images.")
    ] = None,
    short_side_px: Annotated[int, typer.Option(min=8, max=2160, help="Short side of the stored fields.")] = 128,
    compute_px: Annotated[
        int | None, typer.Option(min=16, max=2160, help="Short side they are computed at; the stored one by default.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode and compute.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Store the optical flow of every video; a recipe with the modality flow reads it in place of computing it.

    Give the same command again to go on after a stop, or to make damaged shards anew.

    Example: reeltag flow packed --out packed/flow --fast
    """
    from dataclasses import asdict

    from reeltag.data.flow_clip import FlowSettings
    from reeltag.data.flow_store import write_flow
    from reeltag.data.manifest import Manifest
    from reeltag.data.shards import PackedVideos
    from reeltag.media.flow import IMAGE_BOUND_PX, IMAGE_FPS

    chosen = _method(method, fast, weights)
    packed = (manifest / PackedVideos.description_name).is_file()
    image = form is Form.image
    function = None
    if weights is not None:
        from reeltag.inference.network_flow import NetworkFlow

        function = NetworkFlow(weights, device)
    settings = FlowSettings(
        method=chosen.value,
        step=step,
        fps=IMAGE_FPS if fps is None and image else fps,
        max_frames=max_frames,
        bound_px=bound_px or (IMAGE_BOUND_PX if image else 20.0),
        form=form.value,
        short_side_px=short_side_px,
        compute_px=compute_px,
        weights=None if function is None else function.digest,
    )
    source = PackedVideos(manifest) if packed else Manifest.read(manifest)
    with Counter(f"flow by {chosen.value}") as progress:
        report = write_flow(source, out, settings, function=function, workers=workers, progress=progress)
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
    else:
        print(report.sentence("flow"))
    if report.bad:
        log().print(f"{report.folder / 'bad_files.jsonl'} says why each was left out", markup=False)
        raise typer.Exit(1)


def _method(method: Method | None, fast: bool, weights: str | None) -> Method:
    from reeltag.errors import ReeltagError

    if fast and method not in (None, Method.dis):
        raise ReeltagError(f"--fast means the method dis, and --method says {method}; give one of the two")
    chosen = Method.dis if fast else method or (Method.tvl1 if weights is None else Method.raft)
    if chosen is Method.raft and weights is None:
        raise ReeltagError(
            "--method raft needs --weights: the file that torchvision publishes for raft_small or raft_large, or one "
            "of these two names to download it"
        )
    if chosen is not Method.raft and weights is not None:
        raise ReeltagError(f"--weights are for --method raft, not {chosen}; leave them out")
    return chosen
