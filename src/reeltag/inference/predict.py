"""The Tagger: from a video file to ranked labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reeltag.data.feature_source import SOURCE_FILE
from reeltag.data.feature_view import FeatureTestView
from reeltag.data.features import pad_features, rate_of
from reeltag.data.importers.lines import SOUND_SUFFIXES, VIDEO_SUFFIXES
from reeltag.data.sources import FileSource, Source
from reeltag.data.views import TestView
from reeltag.errors import MediaError, StoreError
from reeltag.inference.extractor import coded, find_extractor
from reeltag.inference.load import Loaded, load_trained
from reeltag.inference.sound_extractor import SoundExtractor
from reeltag.inputs import modalities_of
from reeltag.media import Sound, Video, open_media
from reeltag.models.scoring import score_batch
from reeltag.schema import Tags
from reeltag.store.calibration import DEFAULT_THRESHOLD


class VideoFeatures:
    """Turns a video into what a model on stored features takes, by the extractor and the coding of its training."""

    def __init__(self, loaded: Loaded, extractor: str | None) -> None:
        trained = loaded.trained
        if trained.features is None:
            raise StoreError(f"{trained.path} does not say what made its features ({SOURCE_FILE} is missing)")
        self.extractor = find_extractor(trained.features, extractor, device=str(loaded.device))
        self.coding = trained.features.coding(trained.path)
        self.view = FeatureTestView(trained.recipe.data, trained.recipe.test)

    def batch(self, video: Video | Sound, name: str) -> dict[str, Tensor]:
        """Return a batch of one video: `features` (1, V, T, D) as a store would give them back, and `mask`."""
        if isinstance(self.extractor, SoundExtractor):
            features, times = self.extractor.of_video(video, name)
        elif isinstance(video, Sound):
            raise FileSource(name, video).no_pictures()
        else:
            features, times = self.extractor.of_video(video)
        stored = self.coding.decode(coded(self.coding, features, name))
        generator = torch.Generator().manual_seed(0)
        views, _ = self.view.render(stored[self.view.choose(len(times), rate_of(times), generator)], generator)
        padded, mask = pad_features([views])
        return {"features": padded, "mask": mask}


class Tagger:
    """Tags videos with a trained model; make one with `from_pretrained`.

    A model on stored features is given the features that its extractor makes of the video.

    Args:
        loaded: the model with its recipe, labels and calibration.
        extractor: where the model that makes the features lies now; None looks where it lay.
        calibrated: whether scores are what the calibration makes of them, where there is one.
    """

    def __init__(self, loaded: Loaded, *, extractor: str | None = None, calibrated: bool = True) -> None:
        self.loaded = loaded
        self.calibration = loaded.trained.calibration if calibrated else None
        recipe = loaded.trained.recipe
        self.features = None
        self.modalities: tuple[str, ...] = ()
        if loaded.model.input_kind == "features":
            self.features = VideoFeatures(loaded, extractor)
        else:
            self.modalities = modalities_of(recipe, loaded.model)
            # A network is not run on the way for another one's input: such flow is missing, as a silent track is.
            without = ("flow",) if recipe.data.flow.method == "raft" else ()
            self.view = TestView(recipe.data, recipe.test, self.modalities, without)
        self.label_names = loaded.trained.label_names

    @property
    def thresholds(self) -> list[float]:
        """L scores from which a label counts as present."""
        return [DEFAULT_THRESHOLD] * len(self.label_names) if self.calibration is None else self.calibration.thresholds

    @property
    def takes(self) -> tuple[str, ...]:
        """The modalities of a file that are used where it has them."""
        return self.modalities if self.features is None else (self.features.extractor.modality,)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        checkpoint: str = "last",
        extractor: str | None = None,
        calibrated: bool = True,
    ) -> Tagger:
        """Load a run folder or a bundle.

        Args:
            path: the folder.
            device: a torch device, or `auto`.
            checkpoint: `last` or `best`, for a run folder.
            extractor: for a model on stored features, where the model that makes them lies now.
            calibrated: whether scores are what `reeltag calibrate` makes of them, where it was run.

        Raises:
            StoreError: nothing there, a file that is damaged or does not fit, or an extractor that is not at hand.
        """
        loaded = load_trained(str(path), device=device, checkpoint=checkpoint)
        return cls(loaded, extractor=extractor, calibrated=calibrated)

    def __call__(self, video: str | Path) -> Tags:
        """Return the tags of one video; the file is opened once for all modalities.

        Raises:
            MediaError: the file cannot be read, or has nothing of what the model takes; `.reason` says why.
        """
        with open_media(video) as opened:
            return self.of_open(opened, str(video))

    def of_open(self, opened: Video | Sound, video: str) -> Tags:
        """Return the tags of an open file, which stays open; `video` is its name."""
        missing: list[str] = []
        if self.features is not None:
            used = [self.features.extractor.modality]
            batch = self.features.batch(opened, video)
        else:
            batch, used = self.look(FileSource(video, opened))
            missing = [modality for modality in self.modalities if modality not in used]
        scores, duration_s, damaged = self.scores_of(batch)[0].tolist(), opened.duration_s, opened.damaged
        return ranked(Tags(video, self.label_names, scores, [], used, missing, duration_s, damaged), self.thresholds)

    def scores_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return float32 (B, L) scores, calibrated and on the CPU, of a batch of the test views of B clips."""
        with torch.inference_mode(), self.loaded.autocast():
            test = self.loaded.trained.recipe.test
            scores, _ = score_batch(self.loaded.model, batch, test.average, self.loaded.device, test.activation)
        found = scores.float().cpu()
        return found if self.calibration is None else torch.from_numpy(self.calibration.apply(found.numpy()))

    def look(self, source: Source) -> tuple[dict[str, Tensor], list[str]]:
        """Return a batch of the test views of one clip (see `schema.Batch`), and which modalities it has.

        Raises:
            MediaError: it cannot be read, or has none.
        """
        seen = self.view.look(source, torch.Generator().manual_seed(0))
        used = [modality for modality, there in zip(self.modalities, seen.present, strict=True) if there]
        if not used:
            what = " and ".join(self.modalities)
            raise MediaError(
                "unsupported", source.path, f"the model takes {what}, and the file has no such track, or a silent one"
            )
        batch = {name: each.unsqueeze(0) for name, each in seen.inputs.items()}
        return {**batch, "present": torch.tensor(seen.present).unsqueeze(0)}, used

    def many(self, videos: Iterable[str | Path]) -> Iterator[Tags | MediaError]:
        """Yield the tags of each video, or the error of one that cannot be read; the others go on."""
        return tag_each(self, videos)


def ranked(tags: Tags, thresholds: Sequence[float]) -> Tags:
    """Return tags whose scores, and thresholds, are still in the order of the labels, best first."""
    order = sorted(range(len(tags.scores)), key=lambda label: -tags.scores[label])
    return replace(
        tags,
        labels=[tags.labels[label] for label in order],
        scores=[tags.scores[label] for label in order],
        thresholds=[thresholds[label] for label in order],
    )


def tag_each(tagger: Callable[[str | Path], Tags], videos: Iterable[str | Path]) -> Iterator[Tags | MediaError]:
    """Yield what a tagger says of each video, or the error of one that cannot be read."""
    for video in videos:
        try:
            yield tagger(video)
        except MediaError as error:
            yield error


def find_videos(inputs: Iterable[str | Path], *, sounds: bool = False) -> list[Path]:
    """Return the files that `reeltag tag` means: files as given, those below a folder, the rows of a manifest.

    Args:
        inputs: files, folders and manifests.
        sounds: whether sound files of a folder count too.
    """
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES if sounds else VIDEO_SUFFIXES
    found: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            found += sorted(path for path in given.rglob("*") if path.suffix.lower() in suffixes)
        elif given.suffix.lower() in (".parquet", ".csv", ".jsonl"):
            from reeltag.data.manifest import Manifest

            manifest = Manifest.read(given, needs_labels=False)
            found += [manifest.video_path(row) for row in range(len(manifest))]
        else:
            found.append(given)
    return found
