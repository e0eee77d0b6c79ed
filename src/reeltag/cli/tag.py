"""`reeltag tag`: videos to ranked labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reeltag.cli.console import AsJson, Device


def tag(
    model: Annotated[str, typer.Argument(help="A run folder, a bundle, or an ensemble of them.")],
    inputs: Annotated[list[Path], typer.Argument(help="Videos, folders, or a manifest.")],
    top: Annotated[int | None, typer.Option(min=1, help="Keep the best labels of each video alone.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    extractor: Annotated[
        str | None, typer.Option(help="For a model on features: where the model that makes them lies now.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the tags of all videos to this parquet file.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Print the labels of each video, best first; an unreadable video is named and the others go on.

    Example: reeltag tag runs/first holiday/ clip.mp4 --top 5 --json
    """
    from reeltag.errors import MediaError, ReeltagError
    from reeltag.inference.ensemble_tagger import EnsembleTagger
    from reeltag.inference.predict import Tagger, find_videos

    tagger: Tagger | EnsembleTagger
    if model.endswith(".json"):
        tagger = EnsembleTagger.from_file(model, device=device, checkpoint=checkpoint, extractor=extractor)
    else:
        tagger = Tagger.from_pretrained(model, device=device, checkpoint=checkpoint, extractor=extractor)
    videos = find_videos(inputs, sounds="audio" in tagger.takes)
    if not videos:
        raise ReeltagError(f"no video found in {', '.join(map(str, inputs))}; give files, folders or a manifest")
    lines: list[dict[str, Any]] = []
    failed = 0
    for video, tags in zip(videos, tagger.many(videos), strict=True):
        if isinstance(tags, MediaError):
            failed += 1
            line: dict[str, Any] = {"video": str(video), "error": {"reason": tags.reason, "message": tags.detail}}
            text = f"unreadable: {tags.reason}: {tags.detail}"
        else:
            line = tags.to_dict(top)
            marks = {True: "*", False: ""}
            text = "  ".join(
                f"{row['label']}{marks[row['present']]} {row['score']:.2f}" for row in tags.to_dict(top or 5)["labels"]
            )
        lines.append(line)
        print(json.dumps(line, ensure_ascii=False) if as_json else f"{video}: {text}", flush=True)
    if out is not None:
        from reeltag.inference.tag_table import write_tags

        write_tags(out, lines)
    if failed:
        raise typer.Exit(1)
