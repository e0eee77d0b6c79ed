"""`reeltag data`: from files to one manifest, split, checked and packed."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reeltag.cli.console import AsJson, Counter, log, print_json, print_table

if TYPE_CHECKING:
    from reeltag.data.audit import Audit

SHOWN = 5  # of each kind of finding; --out and --json give all
app = typer.Typer(help="Import, split, check and pack videos; make the demo data.", no_args_is_help=True)


class Store(StrEnum):
    """How frames are stored in shards."""

    jpeg = "jpeg"
    raw = "raw"


Manifest = Annotated[Path, typer.Argument(help="A manifest, parquet or csv.")]


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A folder per label, a csv or jsonl, or an annotation file.")],
    out: Annotated[Path, typer.Option(help="The manifest to write, .parquet or .csv.")] = Path("manifest.parquet"),
    format_name: Annotated[str | None, typer.Option("--format", help="A name of `reeltag list formats`.")] = None,
    labels: Annotated[str | None, typer.Option(help="A vocabulary by name or a file, one label a line.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="The folder that paths start from; the source's by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn annotations of any listed format into one manifest, and say what was detected and why.

    Example: reeltag data import train_list.txt --labels kinetics400 --out manifest.parquet
    """
    from reeltag.data.importers import import_manifest

    manifest, detection = import_manifest(source, format_name, labels, videos)
    manifest.write(out)
    facts = {"format": detection.format, "why": detection.why, "clips": len(manifest),
             "labels": len(manifest.label_names), "splits": manifest.split_counts, "manifest": str(out)}  # fmt: skip
    if as_json:
        print_json(facts)
        return
    log().print(f"read as {detection}", markup=False)
    print(f"{out}: {len(manifest)} clips, {len(manifest.label_names)} labels")


@app.command("split")
def split(
    manifest: Manifest,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the clips.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the clips.")] = 0.1,
    group: Annotated[str | None, typer.Option(help="A column whose equal values stay in one split.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="The manifest to write; the given one when not set.")] = None,
    as_json: AsJson = False,
) -> None:
    """Split by iterative stratification: every label keeps its share, and groups stay together.

    Example: reeltag data split manifest.parquet --val 0.15 --test 0.15 --group source_video
    """
    from reeltag.data.manifest import Manifest as Table
    from reeltag.data.split import split_manifest

    done = split_manifest(Table.read(manifest), val=val, test=test, seed=seed, group=group)
    done.write(out or manifest)
    if as_json:
        print_json({"manifest": str(out or manifest), "splits": done.split_counts})
    else:
        print_table(["split", "clips"], done.split_counts.items())


@app.command("check")
def check(
    manifest: Manifest,
    out: Annotated[Path | None, typer.Option(help="Write audit.json into this folder.")] = None,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="End with 1 above this share of unreadable files.")
    ] = 0.3,
    regroup: Annotated[bool, typer.Option("--regroup", help="Give duplicates one group, in the manifest.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Look for unreadable files, duplicates, leaks between splits, and labels that cannot be learned.

    Example: reeltag data check manifest.parquet --out audit/
    """
    from reeltag.data.audit import check_manifest
    from reeltag.data.manifest import Manifest as Table
    from reeltag.store.atomic import write_atomic

    table = Table.read(manifest)
    with Counter("checking") as progress:
        audit = check_manifest(table, workers=workers, progress=progress)
    if out is not None:
        write_atomic(out / "audit.json", audit.to_json().encode())
    if as_json:
        print(audit.to_json())
    else:
        for line in audit_lines(audit):
            print(line)
    if regroup:
        audit.with_groups(table).write(manifest)
        log().print(f"{manifest}: duplicates now share a group; `reeltag data split` keeps groups together")
    if audit.bad_share > max_bad:
        raise typer.Exit(1)


def audit_lines(audit: Audit) -> Iterator[str]:
    """Yield the audit as short lines, what is wrong first."""
    hours = audit.duration_s / 3600
    yield f"{audit.clips} clips in {audit.files} files, {hours:.2f} h, {audit.audio_share:.0%} with sound"
    if audit.unreadable:
        reasons = ", ".join(f"{reason} {count}" for reason, count in audit.reasons.items())
        yield f"unreadable: {len(audit.unreadable)} ({reasons})"
        yield from (f"  {line['path']}: {line['reason']}: {line['message']}" for line in audit.unreadable[:SHOWN])
    if audit.damaged:
        yield f"damaged, but readable: {len(audit.damaged)}"
    for name, groups in (("equal files", audit.duplicates), ("same pictures", audit.near_duplicates)):
        if groups:
            yield f"{name}: {len(groups)} groups"
            yield from (f"  {' = '.join(group[:4])}" for group in groups[:SHOWN])
    if audit.leaks:
        yield f"leaks between splits: {len(audit.leaks)}; `reeltag data check --regroup`, then `reeltag data split`"
        yield from (f"  {leak.kind}: {leak.clips}" for leak in audit.leaks[:SHOWN])
    yield f"labels: {len(audit.labels)}, {audit.cardinality:.2f} a clip, {audit.unlabelled} clips without any"
    for name, labels in (("on no clip", audit.never), ("on every clip", audit.always)):
        if labels:
            yield f"labels {name}: {', '.join(labels[:SHOWN])}{' ...' if len(labels) > SHOWN else ''}"
    for split, labels in audit.missing.items():
        if labels:
            yield f"labels missing in {split}: {', '.join(labels[:SHOWN])}{' ...' if len(labels) > SHOWN else ''}"


@app.command("pack")
def pack(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="The folder of shards to write.")],
    store: Annotated[Store, typer.Option(help="raw (fastest, large) or jpeg (small).")] = Store.jpeg,
    short_side_px: Annotated[int, typer.Option(min=8, max=2160, help="Short side of the stored frames.")] = 256,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Keep this many evenly spaced frames a video.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90,
    audio_rate_hz: Annotated[
        int, typer.Option(min=0, max=192_000, help="Samples a second of the stored sound; 0 leaves it out.")
    ] = 16_000,
    workers: Annotated[int, typer.Option(min=1, help="Decoding processes.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Decode every video once into WebDataset shards that train and evaluate read in place of the files.

    Example: reeltag data pack manifest.parquet --out packed --store raw --short-side-px 128 --max-frames 32
    """
    from dataclasses import asdict

    from reeltag.data.manifest import Manifest as Table
    from reeltag.data.pack import pack as pack_manifest

    with Counter("packing") as progress:
        report = pack_manifest(
            Table.read(manifest),
            out,
            store="raw" if store is Store.raw else "jpeg",
            short_side_px=short_side_px,
            max_frames=max_frames,
            quality=quality,
            audio_rate_hz=audio_rate_hz or None,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
        return
    print(report.sentence("frames and sound" if audio_rate_hz else "frames"))
    if report.bad:
        log().print(f"{report.folder / 'bad_files.jsonl'} says why each was left out", markup=False)


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    clips: Annotated[int, typer.Option(min=70, help="How many clips, all splits together.")] = 2800,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Rendering processes.")] = 2,
) -> None:
    """Write MiniMoments: real mp4 files whose 30 labels have known causes, with a manifest.

    Example: reeltag data demo --out minimoments --clips 1000
    """
    from reeltag.data.minimoments import write_minimoments

    test = clips // 7
    with Counter("rendering") as progress:
        path = write_minimoments(
            out, num_train=clips - 2 * test, num_val=test, num_test=test, seed=seed, workers=workers, progress=progress
        )
    print(path)
