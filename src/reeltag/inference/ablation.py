"""What each member of an ensemble carries: its figures with all, without one, and with one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reeltag.errors import StoreError
from reeltag.inference.aligned import Aligned, Named, align
from reeltag.inference.ensemble import Ensemble, matched
from reeltag.metrics import METRICS
from reeltag.store.scores import Scores


@dataclass(frozen=True)
class AblationRow:
    """One line of an ablation.

    Attributes:
        what: `all`, `without <name>` or `<name> alone`.
        values: metric -> value over all videos.
        groups: group of labels -> mean average precision over its labels.
        covered: share of the videos that the members left cover.
    """

    what: str
    values: dict[str, float]
    groups: dict[str, float]
    covered: float


def ablation(
    ensemble: Ensemble,
    scores: Sequence[Named],
    *,
    metrics: Sequence[str] = ("map_macro", "gap"),
    groups: Mapping[str, Sequence[str]] | None = None,
    by_place: bool = False,
) -> list[AblationRow]:
    """Return what an ensemble scores with all members, without each name, and with each name alone.

    Every line is over the same videos: one that the members left do not cover gets the label shares. A difference
    between two lines is what a name carries.

    Args:
        ensemble: whose members of one name go together.
        scores: see `Ensemble.apply`, also for `by_place`.
        metrics: names.
        groups: name of a group -> labels of it.

    Raises:
        StoreError: a video without truth, or a group with a label that the scores do not have.
    """
    aligned = align(matched(ensemble, scores, by_place=by_place))
    if aligned.targets is None:
        raise StoreError("some videos have no truth, so nothing can be measured; evaluate with labels")
    columns = {name: _columns(aligned, name, labels) for name, labels in (groups or {}).items()}
    places = [(index, member.name) for index, member in enumerate(ensemble.members) if aligned.covered[index].any()]
    names = list(dict.fromkeys(name for _, name in places))
    kept = {"all": names} | {f"without {name}": [n for n in names if n != name] for name in names}
    kept |= {f"{name} alone": [name] for name in names}
    if len(names) < 2:
        kept = {"all": names}
    rows = []
    for what, left in kept.items():
        fused = ensemble.fuse(aligned, [index for index, name in places if name in left])
        rows.append(_row(what, fused, metrics, columns))
    return rows


def _columns(aligned: Aligned, group: str, labels: Sequence[str]) -> list[int]:
    if strange := [label for label in labels if label not in aligned.label_names]:
        raise StoreError(f"the group {group!r} has the label {strange[0]!r}, which the scores do not have")
    return [aligned.label_names.index(label) for label in labels]


def _row(what: str, fused: Scores, metrics: Sequence[str], columns: Mapping[str, list[int]]) -> AblationRow:
    targets, ignore = fused.targets, fused.ignore
    assert targets is not None  # `ablation` has checked it
    by_group = {
        name: METRICS["map_macro"](
            fused.values[:, chosen], targets[:, chosen], ignore=None if ignore is None else ignore[:, chosen]
        )
        for name, chosen in columns.items()
    }
    values = {name: METRICS[name](fused.values, targets, ignore=ignore) for name in metrics}
    covered = 1.0 if fused.covered is None else float(fused.covered.mean())
    return AblationRow(what, values, by_group, covered)
