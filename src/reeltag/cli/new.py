"""`reeltag new`: a folder to start from with one's own videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reeltag.errors import ReeltagError

_MANIFEST = """path,labels,split
videos/beach.mp4,dog|sea,train
videos/street.mp4,car,train
videos/garden.mp4,dog|car,val
"""

_COMMANDS = """# From videos to tags

1. Put your videos into `videos/` and one row a video into `manifest.csv`, as in `manifest.example.csv`: its path, its
   labels separated by `|` and, if you like, its split (train, val, test). Without that column training makes a split.
   Or import what you have: `reeltag data import SRC --out manifest.csv` reads folders per label, csv, jsonl and the
   annotation files of mmaction2, X-Temporal, Kinetics, Moments in Time and UCF101.
2. `reeltag data check manifest.csv` looks for unreadable files, duplicates and leaks between splits.
3. `reeltag data pack manifest.csv --out packed` decodes every video once; training is then many times faster.
4. `reeltag train recipe.yaml --manifest packed --out run --dry-run` tells the cost; without `--dry-run` it trains.
5. `reeltag evaluate run --manifest packed --split val`, then `reeltag report run`.
6. `reeltag tag run videos/beach.mp4`.
"""


def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Write a manifest template, a recipe and the commands to run, for your own videos.

    Example: reeltag new my-tagger
    """
    from reeltag.recipe import find_recipe
    from reeltag.store.atomic import write_atomic

    if folder.exists() and any(folder.iterdir()):
        raise ReeltagError(f"{folder} is not empty; give a new folder")
    recipe = find_recipe("demo/tsm_resnet18_112").read_bytes()
    (folder / "videos").mkdir(parents=True)
    for name, content in (
        ("manifest.example.csv", _MANIFEST.encode()),
        ("README.md", _COMMANDS.encode()),
        ("recipe.yaml", recipe),
    ):
        write_atomic(folder / name, content)
    print(folder / "README.md")
