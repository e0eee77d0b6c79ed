"""Pictures, flow and sound on a composed set of real videos and real sounds: `reeltag bench composed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from reeltag.bench import BENCHES
from reeltag.bench.compose import compose
from reeltag.bench.modalities import flow_beside, table, train_all
from reeltag.bench.training import packed
from reeltag.data.flow_clip import FlowSettings
from reeltag.data.manifest import Manifest
from reeltag.store.atomic import write_json

RECIPES = {name: f"composed/{name}" for name in ("rgb", "flow", "audio", "joint")}
SPLIT = "val"


@BENCHES.register("composed")
def composed(
    videos: str = "sibur", sounds: str = "esc10", out: str = "runs/composed", seeds: int = 1, first_seed: int = 0,
    data_seed: int = 0, save: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Lay real sounds under real videos, train on pictures, flow and sound, alone and together, and print one table.

    The set is composed: what is heard has nothing to do with what is seen. See `reeltag.bench.compose`.

    Args:
        videos: the folder of the railway-ramp clips, with multilabel.csv; see `reeltag bench sibur`.
        sounds: the folder of ESC-10.
        out: where videos, shards and runs go.
        seeds: of the runs, from `first_seed` on.
        first_seed: the first seed.
        data_seed: of who gets which sound.
        save: a results file to write as well.
    """
    console, folder = Console(stderr=True, highlight=False), Path(out)
    manifest = compose(Path(videos), Path(sounds), folder / "data", data_seed)
    shards, _ = packed(manifest, folder / "packed", store="raw", short_side_px=96, max_frames=32)
    flow_s = flow_beside(manifest, shards, FlowSettings("dis", short_side_px=96, max_frames=32))
    table_of = Manifest.read(manifest)
    heard = [name for name in table_of.label_names if name.startswith("sound_")]
    seen = [name for name in table_of.label_names if name not in heard]
    groups = {"seen": _with_both_classes(table_of, seen), "heard": _with_both_classes(table_of, heard)}
    result: dict[str, Any] = {
        "what": "a composed set: railway-ramp videos, ESC-10 sounds laid under 60 % of them",
        "clips": {split: list(table_of.splits or ()).count(split) for split in ("train", SPLIT)},
        "labels": {group: len(names) for group, names in groups.items()},
        "flow_s": round(flow_s, 1),
        "seeds": {},
    }
    for seed in range(first_seed, first_seed + seeds):
        trained = train_all(RECIPES, shards, folder, seed=seed, split=SPLIT, console=console)
        result["seeds"][str(seed)] = table(trained, shards, SPLIT, groups)
        for path in (folder / "composed.json", *([Path(save)] if save else [])):
            write_json(path, result)
    console.print_json(data=result)
    return result


def _with_both_classes(manifest: Manifest, names: list[str]) -> list[str]:
    """Return the labels that some but not all clips of the test split carry."""
    tested = [labels for labels, split in zip(manifest.labels, manifest.splits or (), strict=True) if split == SPLIT]
    carried = {name: sum(manifest.label_names.index(name) in labels for labels in tested) for name in names}
    return [name for name, count in carried.items() if 0 < count < len(tested)]
