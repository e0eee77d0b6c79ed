"""`reeltag tag`: videos to ranked labels; with their times and reasons on request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.cli.console import AsJson, Device

Seconds = float | None


def tag(
    model: Annotated[str, typer.Argument(help="A run folder, a bundle, or an ensemble of them.")],
    inputs: Annotated[list[Path], typer.Argument(help="Videos, folders, or a manifest.")],
    top: Annotated[int | None, typer.Option(min=1, help="Keep the best labels of each video alone.")] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Also tag the file window by window: when is each label there?")
    ] = False,
    window_s: Annotated[
        Seconds, typer.Option(help="Seconds of a window; what a clip of the model spans by default.")
    ] = None,
    hop_s: Annotated[
        Seconds, typer.Option(help="Seconds from one window to the next; half a window by default.")
    ] = None,
    min_s: Annotated[Seconds, typer.Option(help="Leave out segments that are shorter.")] = None,
    gap_s: Annotated[Seconds, typer.Option(help="Close gaps of at most this length within a label.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what the best labels rest on, with a page for each video.")
    ] = False,
    explain_out: Annotated[
        Path | None, typer.Option(help="Folder of the pages; by default `explain` beside --out, or here.")
    ] = None,
    explain_method: Annotated[
        str | None, typer.Option(help="How places are found: grad_cam, occlusion or rise.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the masks that rise draws.")] = 0,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    extractor: Annotated[
        str | None, typer.Option(help="For a model on features: where the model that makes them lies now.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the tags of all videos to this parquet file.")] = None,
    engine: Annotated[str, typer.Option(help="local: here, one by one; ray: by many workers and machines.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="With ray: workers, each with the model; one a GPU, else one for two cores.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="With ray: GPUs of a worker, or a share of one; 0 for none.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="With ray: the cluster, as `ray start --head` prints it; a fresh one here if none."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Print the labels of each video, best first; an unreadable video is named and the others go on.

    With --timeline, --out tags.parquet also writes the scores of all windows to tags.timeline.parquet. With --out and
    neither --timeline nor --explain, the same command goes on where it was ended.

    Example: reeltag tag runs/first holiday/ clip.mp4 --top 5 --json
    """
    from reeltag.cli.tag_answers import Answers, check_flags
    from reeltag.cli.tag_job import TagJob, check_engine
    from reeltag.inference.any_tagger import TaggerCall

    seconds = {"window_s": window_s, "hop_s": hop_s, "min_s": min_s, "gap_s": gap_s}
    check_flags(seconds, "--timeline", given=timeline)
    check_flags({"explain_out": explain_out, "explain_method": explain_method}, "--explain", given=explain)
    on_ray = {"workers": workers, "gpus_per_worker": gpus_per_worker, "ray_address": ray_address}
    check_flags(on_ray, "--engine ray", given=engine == "ray")
    check_engine(engine, {"--timeline": timeline, "--explain": explain})
    folder = explain_out or (out.parent if out is not None else Path()) / "explain"
    answers = Answers(seconds if timeline else None, folder if explain else None, explain_method, seed, top)
    job = TagJob(TaggerCall(model, checkpoint, extractor), inputs, device, top, out, as_json)
    if engine == "ray":
        from reeltag.cli.tag_ray import tag_by_ray

        failed = tag_by_ray(job, workers, gpus_per_worker, ray_address)
    else:
        failed = job.here(answers, over_time=timeline, parts=not (timeline or explain))
    if failed:
        raise typer.Exit(1)
