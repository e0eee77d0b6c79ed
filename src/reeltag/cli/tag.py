"""`reeltag tag`: videos to ranked labels; with their times and reasons on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltag.cli.console import AsJson, Device

if TYPE_CHECKING:
    from reeltag.inference.timeline import Timeline

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
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Print the labels of each video, best first; an unreadable video is named and the others go on.

    With --timeline, --out tags.parquet also writes the scores of all windows to tags.timeline.parquet.

    Example: reeltag tag runs/first holiday/ clip.mp4 --top 5 --json
    """
    from reeltag.cli.tag_answers import Answers, check_flags
    from reeltag.errors import ReeltagError
    from reeltag.inference.ensemble_tagger import EnsembleTagger
    from reeltag.inference.predict import Tagger, find_videos

    seconds = {"window_s": window_s, "hop_s": hop_s, "min_s": min_s, "gap_s": gap_s}
    check_flags(seconds, "--timeline", given=timeline)
    check_flags({"explain_out": explain_out, "explain_method": explain_method}, "--explain", given=explain)
    folder = explain_out or (out.parent if out is not None else Path()) / "explain"
    answers = Answers(seconds if timeline else None, folder if explain else None, explain_method, seed, top)
    tagger: Tagger | EnsembleTagger
    if model.endswith(".json"):
        tagger = EnsembleTagger.from_file(model, device=device, checkpoint=checkpoint, extractor=extractor)
    else:
        tagger = Tagger.from_pretrained(model, device=device, checkpoint=checkpoint, extractor=extractor)
    videos = find_videos(inputs, sounds="audio" in tagger.takes)
    if not videos:
        raise ReeltagError(f"no video found in {', '.join(map(str, inputs))}; give files, folders or a manifest")
    lines: list[dict[str, Any]] = []
    timelines: list[Timeline] = []
    for video in videos:
        answer = answers.of(tagger, video)
        lines.append(answer.line)
        timelines += [] if answer.timeline is None else [answer.timeline]
        text = json.dumps(answer.line, ensure_ascii=False) if as_json else f"{video}: {answer.text}"
        print(text, flush=True)
    if out is not None:
        _write(out, lines, timelines, timeline)
    if any("error" in line for line in lines):
        raise typer.Exit(1)


def _write(out: Path, lines: list[dict[str, Any]], timelines: list[Timeline], over_time: bool) -> None:
    from reeltag.inference.tag_table import write_tags, write_timelines

    write_tags(out, lines)
    if over_time:
        write_timelines(out.with_suffix(".timeline.parquet"), timelines)
