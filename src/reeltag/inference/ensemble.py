"""Late fusion: the scores of several models as one, video by video, over the models that have something to say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from reeltag.errors import StoreError, UnknownName
from reeltag.inference.aligned import Aligned, Array, Named, align, as_logits
from reeltag.inference.evidence import Evidence
from reeltag.inference.ranks import Ranks
from reeltag.inference.stacking import Stack
from reeltag.recipe import SourceSection
from reeltag.registry import close_name
from reeltag.sections import Section
from reeltag.store.atomic import write_json
from reeltag.store.calibration import Calibration
from reeltag.store.scores import Scores

Of = Literal["probabilities", "logits", "evidence", "ranks"]
Method = Literal["mean", "weighted", "greedy", "rank", "stack", "svm"]


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
        method: how it was found: `mean`, all weights alike; `weighted` and `greedy`, see
            `reeltag.inference.ensemble_weights`; `rank`, the mean of ranks; `stack` and `svm`, a classifier on scores,
            see `reeltag.inference.stacking`.
        of: what is averaged; of logits the sigmoid is taken. `evidence` is added up, not averaged: see `Evidence`.
        members: at least one.
        label_names: of the scores; None = any.
        label_shares: of the videos of the fit that carry each label.
        evidence: what evidence is measured from; there is one where `of` is `evidence`.
        ranks: what scores are ranked among; there is one where `of` is `ranks`.
        stack: the classifier of `stack` and `svm`.
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
    ranks: Ranks | None = None
    stack: Stack | None = None
    fitted: dict[str, float] = Field(default_factory=dict)
    calibration: Calibration | None = None
    source: SourceSection = Field(default_factory=SourceSection)

    @model_validator(mode="after")
    def _is_whole(self) -> Ensemble:
        wanted = len(self.members), len(self.label_names or ())
        for what, part, needed in (
            ("of: evidence", self.evidence, self.of == "evidence"),
            ("of: ranks", self.ranks, self.of == "ranks"),
            ("method: stack, svm", self.stack, self.method in ("stack", "svm")),
        ):
            if needed != (part is not None):
                raise ValueError(f"`{what}` and what was fitted for it go together; `reeltag ensemble fit` writes both")
            if part is not None and part.shape != wanted:
                raise ValueError(f"`{what}` is of {part.shape} members and labels, and the ensemble of {wanted}")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of everything that changes a score."""
        silent: dict[str, Any] = {
            **{"source": True, "fitted": True, "calibration": True},
            "members": {"__all__": {"model"}},
        }
        silent |= {name: True for name in ("evidence", "ranks", "stack") if getattr(self, name) is None}
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

    @property
    def adds(self) -> bool:
        """Whether members are added up from a base, in place of a mean."""
        return self.evidence is not None or self.stack is not None

    @property
    def base(self) -> Array:
        """(L,) what a sum starts from."""
        part = self.stack or self.evidence
        assert part is not None  # asked for where `adds`
        return np.array(part.base)

    def terms(self, aligned: Aligned) -> Array:
        """Return (M, N, L), what is averaged, or added to the base."""
        if self.ranks is not None:
            return self.ranks.of(aligned.values)
        if self.of == "probabilities":
            return aligned.values
        logits = as_logits(aligned.values)
        if self.stack is not None:
            return self.stack.terms(logits)
        return logits if self.evidence is None else logits - np.array(self.evidence.centers)[:, None]

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
        fused, known = fuse(self.terms(aligned), covered, weights, divide=not self.adds)
        if self.adds:
            fused += self.base
        if self.of in ("logits", "evidence"):
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
