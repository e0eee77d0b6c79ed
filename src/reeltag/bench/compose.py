"""A composed set: real videos with real sounds laid under some of them, whose classes join the videos' labels.

Videos: the railway-ramp clips of `reeltag bench sibur`, whose own tracks are silent. Sounds: ESC-10 (K. J. Piczak, ESC:
Dataset for Environmental Sound Classification, 2015; CC BY 3.0, each clip's author and licence in its README). What is
seen and what is heard have nothing to do with each other, so that what a modality adds can be told apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reeltag.data.importers import import_manifest
from reeltag.errors import ManifestError
from reeltag.media import open_video, read_audio
from reeltag.media.remux import lay_sound

RATE_HZ = 16_000
TEST_FOLD = 5
SHARE_WITH_SOUND = 0.6
_FILE = re.compile(r"(\d)-\d+-[A-Z]\.ogg")


def compose(
    videos: Path, sounds: Path, out: Path, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Path:
    """Write the composed videos and their manifest, and return its path.

    Three fifths of each split get a sound, repeated until the video ends, and its class as a further label; of the
    others every second one keeps its silent track, and the rest have no track. Sounds of folds 1 to 4 go to training
    videos, those of fold 5 to the others, as videos keep their authors' split: neither a video nor a sound of the
    test is known from training.

    Args:
        videos: holds multilabel.csv and the videos.
        sounds: holds a folder a class, `001 - Dog bark/1-30226-A.ogg`.
        out: a folder for `videos/` and `manifest.parquet`.
        seed: of who gets which sound.
        progress: called with the number of videos written.

    Raises:
        ManifestError: a folder that holds something else.
    """
    manifest, _ = import_manifest(videos / "multilabel.csv")
    classes = find_sounds(sounds)
    generator = np.random.default_rng(seed)
    chosen = choose_sounds(manifest.splits or (), classes, generator)
    names = (*manifest.label_names, *(f"sound_{name}" for name in classes))
    first = len(manifest.label_names)
    (out / "videos").mkdir(parents=True, exist_ok=True)
    labels, paths, silent = [], [], 0
    for row, (own, sound) in enumerate(zip(manifest.labels, chosen, strict=True)):
        path = out / "videos" / f"{row:04d}.mp4"
        silent += sound is None
        if not path.exists():
            source = manifest.video_path(row)
            half = path.with_name("half.mp4")  # what a kill leaves is not taken for a video
            lay_sound(source, half, _wave(source, sound, mute=silent % 2 == 0), RATE_HZ)
            half.replace(path)
        labels.append((*own, first + sound[0]) if sound is not None else own)
        paths.append(str(path.relative_to(out)))
        if progress is not None:
            progress(row + 1)
    composed = replace(manifest, root=out, paths=tuple(paths), labels=tuple(map(tuple, labels)), label_names=names)
    composed.write(out / "manifest.parquet")
    return out / "manifest.parquet"


def find_sounds(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Return the (fold, file) pairs of every class by its name, `dog_bark`."""
    found = {}
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = [(int(match[1]), path) for path in sorted(inside.iterdir()) if (match := _FILE.fullmatch(path.name))]
        if files:
            found[inside.name.split(" - ")[-1].lower().replace(" ", "_")] = files
    if not found:
        raise ManifestError(f"{folder} holds no class folders with files such as 1-30226-A.ogg; give ESC-10's folder")
    return found


def choose_sounds(
    splits: tuple[str, ...], classes: dict[str, list[tuple[int, Path]]], generator: np.random.Generator
) -> list[tuple[int, Path] | None]:
    """Return for every video the class and file of its sound, or None; classes come equally often in each split."""
    chosen: list[tuple[int, Path] | None] = [None] * len(splits)
    for split in sorted(set(splits)):
        rows = np.flatnonzero(np.array(splits) == split)
        lucky = generator.permutation(rows)[: round(SHARE_WITH_SOUND * len(rows))]
        for turn, row in enumerate(lucky.tolist()):
            label = turn % len(classes)
            files = list(classes.values())[label]
            fitting = [path for fold, path in files if (fold == TEST_FOLD) == (split != "train")]
            chosen[row] = (label, fitting[int(generator.integers(len(fitting)))])
    return chosen


def repeated(wave: NDArray[np.float32], duration_s: float) -> NDArray[np.float32]:
    """Return the wave as often as it takes to fill a duration."""
    num_samples = max(1, round(duration_s * RATE_HZ))
    return np.tile(wave, math.ceil(num_samples / len(wave)))[:num_samples]


def _wave(source: Path, sound: tuple[int, Path] | None, *, mute: bool) -> NDArray[np.float32] | None:
    with open_video(source) as video:
        duration_s = video.duration_s
    if sound is not None:
        return repeated(read_audio(sound[1], RATE_HZ).numpy(), duration_s)
    return None if mute else np.zeros(round(duration_s * RATE_HZ), np.float32)
