"""The Tagger: from a video file to ranked labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from reeltag.data.views import TestView
from reeltag.errors import MediaError
from reeltag.inference.load import Loaded, load_trained
from reeltag.media import open_video
from reeltag.models.scoring import score_batch
from reeltag.schema import Tags

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".wmv",
    ".ogv",
    ".gif",
)


class Tagger:
    """Tags videos with a trained model; make one with `from_pretrained`.

    Args:
        loaded: the model with its recipe, labels and thresholds.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        recipe = loaded.trained.recipe
        self.view = TestView(recipe.data, recipe.test)
        self.label_names = loaded.trained.label_names

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str = "auto", checkpoint: str = "last") -> Tagger:
        """Load a run folder or a bundle.

        Args:
            path: the folder.
            device: a torch device, or `auto`.
            checkpoint: `last` or `best`, for a run folder.

        Raises:
            StoreError: nothing there, or a file that is damaged or does not fit.
        """
        return cls(load_trained(str(path), device=device, checkpoint=checkpoint))

    def __call__(self, video: str | Path) -> Tags:
        """Return the tags of one video.

        Raises:
            MediaError: the file cannot be read; `.reason` says why.
        """
        generator = torch.Generator().manual_seed(0)
        with open_video(video) as opened:
            indices = self.view.choose(opened.num_frames, opened.fps, generator)
            frames = opened.frames_at(indices)
            duration_s, damaged = opened.duration_s, opened.damaged
        clips, _ = self.view.render(frames, generator)
        batch = clips.unsqueeze(0).to(self.loaded.device)  # (1, V, T, C, H, W)
        with torch.inference_mode(), self.loaded.autocast():
            scores, _ = score_batch(self.loaded.model, batch, self.loaded.trained.recipe.test.average)
        values = scores[0].tolist()
        order = sorted(range(len(values)), key=lambda label: -values[label])
        return Tags(
            video=str(video),
            labels=[self.label_names[label] for label in order],
            scores=[values[label] for label in order],
            thresholds=[self.loaded.trained.thresholds[label] for label in order],
            duration_s=duration_s,
            damaged=damaged,
        )

    def many(self, videos: Iterable[str | Path]) -> Iterator[Tags | MediaError]:
        """Yield the tags of each video, or the error of one that cannot be read; the others go on."""
        for video in videos:
            try:
                yield self(video)
            except MediaError as error:
                yield error


def find_videos(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the files that `reeltag tag` means: files as given, the videos below a folder, the rows of a manifest."""
    found: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            found += sorted(path for path in given.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        elif given.suffix.lower() in (".parquet", ".csv", ".jsonl"):
            from reeltag.data.manifest import Manifest

            manifest = Manifest.read(given, needs_labels=False)
            found += [manifest.video_path(row) for row in range(len(manifest))]
        else:
            found.append(given)
    return found
