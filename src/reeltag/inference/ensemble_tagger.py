"""Tagging by several models at once: an ensemble whose members' runs or bundles are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from reeltag.errors import MediaError, StoreError
from reeltag.inference.aligned import Array
from reeltag.inference.ensemble import Ensemble, find_ensemble
from reeltag.inference.predict import Tagger, ranked, tag_each
from reeltag.schema import Tags
from reeltag.store.calibration import DEFAULT_THRESHOLD
from reeltag.store.scores import Scores


class EnsembleTagger:
    """Tags videos by an ensemble: every member looks at the video, those that find nothing of theirs are left out.

    A member opens the file for itself. The scores are those of `Ensemble.apply` on the members' scores of the video,
    which are not calibrated, and then what the ensemble's own calibration makes of them.

    Args:
        ensemble: of M members.
        taggers: M, in its order, of the same labels, without calibrations of their own.

    Raises:
        StoreError: members of other labels.
    """

    def __init__(self, ensemble: Ensemble, taggers: Sequence[Tagger]) -> None:
        self.ensemble, self.taggers = ensemble, list(taggers)
        self.label_names = self.taggers[0].label_names
        for member, tagger in zip(ensemble.members, self.taggers, strict=True):
            if tagger.label_names != self.label_names:
                raise StoreError(
                    f"{member.name} knows other labels than {ensemble.members[0].name}, or in another order"
                )

    @classmethod
    def from_file(
        cls, path: str | Path, *, device: str = "auto", checkpoint: str = "last", extractor: str | None = None
    ) -> EnsembleTagger:
        """Read an ensemble that was fitted on run folders or bundles, and load these.

        Args:
            path: the file; members' folders are relative to its own.
            device: a torch device, or `auto`.
            checkpoint: `last` or `best`, of members that are run folders.
            extractor: for members on stored features, where the model that makes them lies now.

        Raises:
            StoreError: the ensemble knows scores alone, or a folder is gone or holds other weights than those it was
                fitted on.
        """
        ensemble, file = Ensemble.read(path), find_ensemble(str(path))
        if unknown := [member.name for member in ensemble.members if not member.model]:
            raise StoreError(
                f"{path} does not say where the model of {unknown[0]!r} lies; `reeltag ensemble fit` on run folders "
                "(NAME=RUN) writes an ensemble that can tag"
            )
        taggers = []
        for member in ensemble.members:
            folder = file.parent / member.model
            tagger = Tagger.from_pretrained(
                folder, device=device, checkpoint=checkpoint, extractor=extractor, calibrated=False
            )
            found = tagger.loaded.trained.weights_hash
            if member.weights_hash and found != member.weights_hash:
                raise StoreError(
                    f"the {checkpoint} weights of {folder} are {found[:12]}, and {path} was fitted on "
                    f"{member.weights_hash[:12]}: choose the other --checkpoint, or evaluate and fit again"
                )
            taggers.append(tagger)
        return cls(ensemble, taggers)

    @property
    def thresholds(self) -> list[float]:
        """L scores from which a label counts as present."""
        calibration = self.ensemble.calibration
        return [DEFAULT_THRESHOLD] * len(self.label_names) if calibration is None else calibration.thresholds

    @property
    def takes(self) -> tuple[str, ...]:
        """The modalities of a file that are used where it has them."""
        return tuple(dict.fromkeys(modality for tagger in self.taggers for modality in tagger.takes))

    def __call__(self, video: str | Path) -> Tags:
        """Return the tags of one video.

        Raises:
            MediaError: the file cannot be read, or has nothing of what any member takes; `.reason` says why.
        """
        heard = [self._said(tagger, video) for tagger in self.taggers]
        said = [tags if isinstance(tags, Tags) else None for tags in heard]
        known = [tags for tags in said if tags is not None]
        if not known:
            if isinstance(first := heard[0], MediaError) and first.reason != "unsupported":
                raise first
            what = " and ".join(self.takes)
            raise MediaError("unsupported", str(video), f"the members take {what}, and the file has nothing of these")
        values = [self._scores(tags) for tags in said]
        scores = self.fuse(values, np.array([[tags is not None] for tags in said]))[0].tolist()
        used = [modality for modality in self.takes if any(modality in tags.modalities for tags in known)]
        tags = Tags(
            video=str(video),
            labels=self.label_names,
            scores=scores,
            thresholds=[],
            modalities=used,
            missing=[modality for modality in self.takes if modality not in used],
            duration_s=max(tags.duration_s for tags in known),
            damaged=any(tags.damaged for tags in known),
        )
        return ranked(tags, self.thresholds)

    def fuse(self, values: Sequence[Array], covered: Array) -> Array:
        """Return the calibrated scores, float32 (N, L), of N videos or parts of one.

        Args:
            values: M times (N, L), what the members say; anything where they say nothing.
            covered: (M, N) bool, where they say something.
        """
        ids = [str(number) for number in range(covered.shape[1])]
        given = [
            (member.name, Scores(ids, own, self.label_names, "probability", covered=known))
            for member, own, known in zip(self.ensemble.members, values, covered, strict=True)
        ]
        fused, calibration = self.ensemble.apply(given, by_place=True).values, self.ensemble.calibration
        return fused if calibration is None else calibration.apply(fused)

    def many(self, videos: Iterable[str | Path]) -> Iterator[Tags | MediaError]:
        """Yield the tags of each video, or the error of one that cannot be read; the others go on."""
        return tag_each(self, videos)

    def _said(self, tagger: Tagger, video: str | Path) -> Tags | MediaError:
        """Return the tags of a member, or why the file has nothing for it; a file that is broken is an error."""
        try:
            return tagger(video)
        except MediaError as error:
            if error.reason not in ("unsupported", "not_video"):  # not_video: a file of sound, for others perhaps
                raise
            return error

    def _scores(self, tags: Tags | None) -> Array:
        """Return (1, L) scores in the order of the labels."""
        by_label = {} if tags is None else dict(zip(tags.labels, tags.scores, strict=True))
        return np.array([[by_label.get(name, DEFAULT_THRESHOLD) for name in self.label_names]], dtype=np.float32)
