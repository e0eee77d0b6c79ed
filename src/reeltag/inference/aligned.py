"""Scores of several models brought together by the ids of the videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reeltag.errors import StoreError
from reeltag.store.scores import Scores, require_same_labels

Array: TypeAlias = npt.NDArray[Any]
Named = tuple[str, Scores]
_CLIP = 1e-6  # probabilities nearer to 0 or 1 become the logits of this


@dataclass(frozen=True, eq=False)
class Aligned:
    """Scores of M members on the N videos of any of them.

    Attributes:
        names: of the members.
        video_ids: N, in the order in which the members name them.
        values: (M, N, L) probabilities, 0 where a member does not cover a video.
        covered: (M, N) bool.
        targets: (N, L) uint8, or None where the truth of a video is not known.
        ignore: (N, L) bool, or None.
        weights_hashes: of the members.
    """

    names: list[str]
    video_ids: list[str]
    values: Array
    covered: Array
    label_names: list[str]
    targets: Array | None
    ignore: Array | None
    split: str
    manifest_hash: str
    weights_hashes: list[str]

    def rows(self, chosen: Array) -> Aligned:
        """Return the same of some videos, given by number or by bool (N,)."""
        return replace(
            self,
            video_ids=[self.video_ids[row] for row in np.arange(len(self.video_ids))[chosen]],
            values=self.values[:, chosen],
            covered=self.covered[:, chosen],
            targets=None if self.targets is None else self.targets[chosen],
            ignore=None if self.ignore is None else self.ignore[chosen],
        )


def as_logits(probabilities: Array) -> Array:
    """Return the logits, float64, of probabilities kept a millionth away from 0 and 1."""
    clipped = np.clip(probabilities.astype(np.float64), _CLIP, 1 - _CLIP)
    logits: Array = np.log(clipped / (1 - clipped))
    return logits


def align(members: Sequence[Named | None]) -> Aligned:
    """Bring the members' videos together by their ids; None stands for a member without scores.

    Raises:
        StoreError: no scores at all, or members of other labels, splits or truths.
    """
    given = [(name, scores) for name, scores in (m for m in members if m is not None)]
    if not given:
        raise StoreError("an ensemble needs the scores of at least one member")
    first_name, first = given[0]
    for name, scores in given[1:]:
        require_same_labels(first, scores, names=(first_name, name))
        if scores.split != first.split:
            raise StoreError(
                f"{first_name} holds scores of {first.split!r}, {name} of {scores.split!r}; give one split of all"
            )
    place = {video: row for row, video in enumerate(dict.fromkeys(v for _, s in given for v in s.video_ids))}
    shape = (len(place), len(first.label_names))
    values = np.zeros((len(members), *shape), dtype=np.float32)
    covered = np.zeros((len(members), shape[0]), dtype=bool)
    truth = _Truth(shape)
    for index, member in enumerate(members):
        if member is None:
            continue
        name, scores = member
        rows = np.array([place[video] for video in scores.video_ids], dtype=np.int64)
        seen = np.ones(len(rows), dtype=bool) if scores.covered is None else scores.covered
        values[index, rows[seen]] = scores.probabilities()[seen]
        covered[index, rows] = seen
        truth.add(name, rows, scores)
    manifests = {scores.manifest_hash for _, scores in given}
    return Aligned(
        names=["" if member is None else member[0] for member in members],
        video_ids=list(place),
        values=values,
        covered=covered,
        label_names=first.label_names,
        targets=truth.targets,
        ignore=truth.ignore,
        split=first.split,
        manifest_hash=manifests.pop() if len(manifests) == 1 else "",
        weights_hashes=["" if member is None else member[1].weights_hash for member in members],
    )


class _Truth:
    """Targets of the videos, gathered from the members, which must not contradict each other."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._targets = np.zeros(shape, dtype=np.uint8)
        self._ignore = np.zeros(shape, dtype=bool)
        self._known_by: list[str] = [""] * shape[0]

    def add(self, name: str, rows: Array, scores: Scores) -> None:
        """Take the truth of one member's videos, or compare it with what is known."""
        if scores.targets is None:
            return
        ignore = np.zeros_like(scores.targets, dtype=bool) if scores.ignore is None else scores.ignore
        for at, row in enumerate(rows.tolist()):
            other = self._known_by[row]
            same = np.array_equal(self._ignore[row], ignore[at])
            if other and not (same and np.array_equal(self._targets[row], scores.targets[at])):
                raise StoreError(
                    f"{other} and {name} hold different truth of video {scores.video_ids[at]!r}; evaluate both on one "
                    "manifest"
                )
            self._known_by[row] = other or name
        self._targets[rows], self._ignore[rows] = scores.targets, ignore

    @property
    def targets(self) -> Array | None:
        return self._targets if all(self._known_by) else None

    @property
    def ignore(self) -> Array | None:
        return self._ignore if all(self._known_by) and self._ignore.any() else None
