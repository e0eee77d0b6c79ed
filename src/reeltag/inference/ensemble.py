"""Late fusion: the scores of several models as one, video by video, over the models that have something to say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from reeltag.errors import StoreError, UnknownName
from reeltag.inference.evidence import Evidence
from reeltag.recipe import SourceSection
from reeltag.registry import close_name
from reeltag.sections import Section
from reeltag.store.atomic import write_json
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores, require_same_labels

Array: TypeAlias = npt.NDArray[Any]
Of = Literal["probabilities", "logits", "evidence"]
Method = Literal["mean", "weighted"]
Named = tuple[str, Scores]
_CLIP = 1e-6  # probabilities nearer to 0 or 1 become the logits of this


class Member(Section):
    """One model of an ensemble.

    Members of one name belong together: a modality, for example, of which an ablation takes all away.

    Attributes:
        name: of the model or its modality.
        weight: at least 0; the weights of an ensemble need not sum to 1.
        recipe: the shipped recipe that trains it, where an ensemble is a published one.
        weights_hash: of the model whose scores it was fitted on; empty = of any.
        model: its run folder or bundle, seen from the folder of the ensemble's file; empty = known by scores alone.
    """

    name: str
    weight: Annotated[float, Field(ge=0)] = 1.0
    recipe: str = ""
    weights_hash: str = ""
    model: str = ""


class Ensemble(Section):
    """Members, weights and the rule by which their scores become one.

    The score of a video is sum(weight * score) / sum(weight), over the members that cover it. Where these have no
    weight, they count alike; where there are none, the score is the share of the label in the videos of the fit (0.5
    without one). Dividing by the sum keeps a video with few members comparable with one that has all; where all
    videos have all members it changes no ranking, so that published weights with another sum (RippleAI 2019, table 1:
    2.70) give their figures.

    Attributes:
        method: how the weights were found: `mean`, all alike; `weighted`, see `reeltag.inference.ensemble_fit`.
        of: what is averaged; of logits the sigmoid is taken. `evidence` is added up, not averaged: see `Evidence`.
        members: at least one.
        label_names: of the scores; None = any.
        label_shares: of the videos of the fit that carry each label.
        evidence: what evidence is measured from; there is one where `of` is `evidence`.
        fitted: what the fit measured: by name of a metric or of a member.
        calibration: of the fused scores, by which videos are tagged; `apply` does without.
        source: of a published ensemble.
    """

    format: Literal["reeltag ensemble 1"] = "reeltag ensemble 1"
    method: Method = "mean"
    of: Of = "probabilities"
    members: Annotated[list[Member], Field(min_length=1)]
    label_names: list[str] | None = None
    label_shares: list[float] | None = None
    evidence: Evidence | None = None
    fitted: dict[str, float] = Field(default_factory=dict)
    calibration: Calibration | None = None
    source: SourceSection = Field(default_factory=SourceSection)

    @model_validator(mode="after")
    def _evidence_is_whole(self) -> Ensemble:
        if (self.of == "evidence") != (self.evidence is not None):
            raise ValueError("`of: evidence` and `evidence` go together; `reeltag ensemble fit` writes both")
        if self.evidence is not None:
            found = [len(self.evidence.base), *map(len, self.evidence.centers)]
            wanted = [len(self.label_names or ())] * (1 + len(self.members))
            if found != wanted:
                raise ValueError(f"`evidence` holds {found} labels in its base and centers and needs {wanted}")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of everything that changes a score."""
        silent: dict[str, Any] = {
            **{"source": True, "fitted": True, "calibration": True},
            "members": {"__all__": {"model"}},
        }
        if self.evidence is None:
            silent["evidence"] = True
        content = self.model_dump(mode="json", exclude=silent)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, path: Path, models: Sequence[Path | None] | None = None) -> None:
        """Write one JSON file, whole or not at all.

        Args:
            path: of the file.
            models: where the members' run folders or bundles lie, so that the ensemble can tag videos; None = as it is.
        """
        members = self.members
        if models is not None:
            places = ["" if m is None else os.path.relpath(m.resolve(), path.parent.resolve()) for m in models]
            members = [m.model_copy(update={"model": at}) for m, at in zip(members, places, strict=True)]
        write_json(path, self.model_copy(update={"members": members}).model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path) -> Ensemble:
        """Read an ensemble by path or by the name of a shipped one.

        Raises:
            StoreError: it is no ensemble.
            UnknownName: there is no such file and no shipped ensemble of that name.
        """
        file = find_ensemble(str(path))
        try:
            return cls.model_validate(json.loads(file.read_text(encoding="utf-8")))
        except (ValidationError, ValueError, OSError) as error:
            detail = str(error).splitlines()[0]
            if isinstance(error, ValidationError):  # whose first line is but a count
                first = error.errors()[0]
                detail = ": ".join([*map(str, first["loc"]), first["msg"]])
            raise StoreError(f"{path} is no ensemble ({detail}); `reeltag ensemble fit` writes them") from None

    def apply(self, scores: Sequence[Named], *, by_place: bool = False, without: Sequence[str] = ()) -> Scores:
        """Return the fused scores of every video that any member was asked about.

        Args:
            scores: of the members, as `matched` takes them.
            by_place: see `matched`.
            without: names of members to leave out.

        Returns:
            Probabilities; `covered` is False where no member covers the video, None where all are.

        Raises:
            StoreError: scores of other models, labels, splits or truths.
        """
        chosen = matched(self, scores, by_place=by_place)
        return self.fuse(align(chosen), [index for index, m in enumerate(self.members) if m.name not in without])

    def fuse(self, aligned: Aligned, members: Sequence[int] | None = None) -> Scores:
        """Return the fused scores of aligned members; `members` are the places of those that may speak, or all."""
        if self.label_names is not None and self.label_names != aligned.label_names:
            raise StoreError(
                f"the ensemble was fitted on {len(self.label_names)} labels and these scores have "
                f"{len(aligned.label_names)}, or in another order; fit it on scores of these models"
            )
        weights = np.array([member.weight for member in self.members])
        speaks = np.zeros(len(weights), dtype=bool)
        speaks[list(range(len(weights)) if members is None else members)] = True
        covered = aligned.covered & speaks[:, None]
        if self.evidence is None:
            fused, known = fuse(aligned.for_mean(self.of), covered, weights)
        else:
            centers = np.array(self.evidence.centers)
            fused, known = fuse(as_logits(aligned.values) - centers[:, None], covered, weights, divide=False)
            fused += np.array(self.evidence.base)
        if self.of != "probabilities":
            fused = 1 / (1 + np.exp(-fused))
        shares = 0.5 if self.label_shares is None else np.array(self.label_shares)
        fused = np.where(known[:, None], fused, shares)
        return Scores(
            video_ids=aligned.video_ids,
            values=np.clip(fused, 0, 1).astype(np.float32),
            label_names=aligned.label_names,
            kind="probability",
            targets=aligned.targets,
            ignore=aligned.ignore,
            split=aligned.split,
            recipe_hash=self.hash,
            weights_hash=hashlib.sha256("".join(aligned.weights_hashes).encode()).hexdigest(),
            manifest_hash=aligned.manifest_hash,
            covered=None if known.all() else known,
        )


def fuse(values: Array, covered: Array, weights: Array, *, divide: bool = True) -> tuple[Array, Array]:
    """Return (N, L) weighted means over the members that cover a video, and (N,) bool, which videos have one.

    Args:
        values: (M, N, L).
        covered: (M, N) bool.
        weights: (M,), at least 0.
        divide: by the sum of the weights; without it, sums are returned.
    """
    shares = weights[:, None] * covered  # (M, N)
    mute = shares.sum(0) == 0
    shares[:, mute] = covered[:, mute]
    total = shares.sum(0)
    known: Array = total > 0
    if divide:
        shares = shares / np.where(known, total, 1)
    fused = np.zeros(values.shape[1:])
    for share, own in zip(shares, values, strict=True):
        fused += share[:, None] * own
    return fused, known


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

    def for_mean(self, of: Of) -> Array:
        """Return what is averaged or, of evidence, what is compared with the centers: (M, N, L)."""
        return self.values if of == "probabilities" else as_logits(self.values)


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


def matched(ensemble: Ensemble, scores: Sequence[Named], *, by_place: bool = False) -> list[Named | None]:
    """Return the scores of each member of an ensemble, in its order; None for a member that has none.

    Members that were fitted on a model's scores know its weights by their hash, and take the scores with that hash;
    a member may be left out. Others are taken by their place, and then none may be left out.

    Args:
        ensemble: of M members.
        scores: of members, by name.
        by_place: take all by place: the same recipes trained anew, for example.

    Raises:
        StoreError: scores of no member, or another number of them.
    """
    members = ensemble.members
    if by_place or not all(member.weights_hash for member in members):
        if len(scores) != len(members):
            raise StoreError(
                f"the ensemble has {len(members)} members ({', '.join(m.name for m in members)}), and {len(scores)} "
                "score files are given; give one for each, in this order"
            )
        return [(member.name, own) for member, (_, own) in zip(members, scores, strict=True)]
    found: list[Named | None] = [None] * len(members)
    for name, own in scores:
        places = [i for i, m in enumerate(members) if m.weights_hash == own.weights_hash and found[i] is None]
        if not places:
            raise StoreError(
                f"{name} holds scores of weights {own.weights_hash[:12] or 'unknown'}, which are no member's: "
                f"{', '.join(f'{m.name} {m.weights_hash[:12]}' for m in members)}; give the members' scores, or match "
                "them by their place (--by-place)"
            )
        found[places[0]] = (members[places[0]].name, own)
    return found


def list_ensembles() -> list[str]:
    """Return the names of the shipped ensembles, sorted, as `alibaba2019/audio`."""
    root = Path(str(files("reeltag") / "recipes" / "ensembles"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.json"))


def find_ensemble(name: str) -> Path:
    """Return the file of an ensemble given by path or by the name of a shipped one."""
    if Path(name).is_file():
        return Path(name)
    shipped = list_ensembles()
    if name in shipped:
        return Path(str(files("reeltag") / "recipes" / "ensembles" / f"{name}.json"))
    raise UnknownName(
        f"There is no ensemble file {name!r}, and none of that name is shipped. {close_name(name, shipped)}"
        "`reeltag ensemble fit` writes one; `reeltag list ensembles` shows the shipped ones."
    )
