"""Why a tag was given: what its score loses when stretches of time, places or whole modalities are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from reeltag.errors import ReeltagError
from reeltag.inference.ensemble_tagger import EnsembleTagger
from reeltag.inference.hiding import NUM_PARTS, Subject
from reeltag.inference.predict import Tagger
from reeltag.inference.saliency import METHODS, has_map, logits_of
from reeltag.media import Video, open_media

Method = Literal["auto", "grad_cam", "occlusion", "rise"]
DEFAULT_METHOD: Method = "auto"
NUM_LABELS = 3
_BOX_SHARE = 0.5  # a box holds the cells that have at least this share of the best one's worth


@dataclass(frozen=True)
class TimePart:
    """A stretch of time, and what is lost when it is hidden.

    Attributes:
        start_s: in the file; `end_s` likewise, half-open.
        drop: what the score falls by.
        evidence: what its log odds fall by, which do not level off near 1 as the score does.
    """

    start_s: float
    end_s: float
    drop: float
    evidence: float

    def to_dict(self) -> dict[str, float]:
        """Return what stands in a line of JSON."""
        return {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "drop": round(self.drop, 6),
            "evidence": round(self.evidence, 3),
        }


@dataclass(frozen=True)
class Place:
    """Where a label's score rests most.

    Attributes:
        frame_s: middle of the part of the time that it is in.
        box: left, top, right and bottom as shares of the frame.
        drop: what the score falls by when the box is hidden in that part of the time; `evidence` its log odds.
    """

    frame_s: float
    box: tuple[float, float, float, float]
    drop: float
    evidence: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the score of one label rests on.

    Attributes:
        label: its name.
        score: of the video.
        time: K stretches in their order; a negative drop means that the score rises without it.
        place: the strongest region, or None without pictures or where no place speaks for the label.
        modalities: what the score falls by without each; empty for a model that takes one alone.
        maps: (K, rows, columns) heat over the whole frame, by part of the time, or None without pictures.
    """

    label: str
    score: float
    time: list[TimePart]
    place: Place | None
    modalities: dict[str, float]
    maps: NDArray[np.float32] | None

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a line of `reeltag tag --explain --json`; the maps are left to the pictures."""
        place = None
        if self.place is not None:
            place = {
                "frame_s": round(self.place.frame_s, 3),
                "box": [round(edge, 3) for edge in self.place.box],
                "drop": round(self.place.drop, 6),
                "evidence": round(self.place.evidence, 3),
            }
        return {
            "label": self.label,
            "score": round(self.score, 6),
            "time": [part.to_dict() for part in self.time],
            "place": place,
            "modalities": {name: round(drop, 6) for name, drop in self.modalities.items()},
        }


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanations of one video.

    Attributes:
        video: its name.
        explanations: of the best labels, best first.
        frames: uint8 (K, H, W, 3), the frame in the middle of each part of the time; None without pictures.
        frames_s: (K,) when they are shown.
        method: of the maps, or an empty string.
    """

    video: str
    explanations: list[Explanation]
    frames: NDArray[np.uint8] | None
    frames_s: list[float]
    method: str


def explain(
    tagger: Tagger | EnsembleTagger,
    video: str | Path,
    *,
    labels: list[str] | None = None,
    num_labels: int = NUM_LABELS,
    method: Method = DEFAULT_METHOD,
    num_parts: int = NUM_PARTS,
    seed: int = 0,
) -> Explained:
    """Say what the scores of a video's best labels rest on: when, where, and in which modality.

    Args:
        tagger: a model or an ensemble.
        video: the file.
        labels: which; by default the best `num_labels` of those that are present, or the best one alone.
        num_labels: see above, at least 1.
        method: of the places, see `reeltag.inference.saliency`; `auto` is Grad-CAM where the model has maps, else
            occlusion.
        num_parts: K, the parts that the time is cut into, at least 2.
        seed: of `rise`, the one method that draws anything.

    Raises:
        MediaError: the file cannot be read, or has nothing of what the model takes.
        ReeltagError: an unknown label or method, a count that is too small, or a model that the method does not fit.
    """
    check_method(method)
    if num_labels < 1 or num_parts < 2:
        raise ReeltagError(f"num_labels={num_labels} must be at least 1, and num_parts={num_parts} at least 2")
    names = tagger.label_names
    if unknown := [label for label in labels or [] if label not in names]:
        raise ReeltagError(f"{unknown[0]!r} is no label of this model; it knows {', '.join(names[:5])}, ...")
    with open_media(video) as media:
        subject = Subject(tagger, media, str(video), num_parts=num_parts)
        scores = subject.scores()[0]
        columns = [names.index(label) for label in labels] if labels else _best(tagger, scores, num_labels)
        maps = None
        if subject.grid[0]:
            if method == "auto":
                method = "grad_cam" if has_map(subject) else "occlusion"
            maps = METHODS[method](subject, columns, torch.Generator().manual_seed(seed))
        middles = (subject.edges_s[1:] + subject.edges_s[:-1]) / 2
        frames = None
        if subject.grid[0] and isinstance(media, Video):
            shown = media.frames_at_s(np.minimum(middles, media.duration_s))
            frames = np.ascontiguousarray(shown.permute(0, 2, 3, 1).numpy())
        times, without = _times(subject, scores), _modality_drops(subject, scores)
        found = []
        for place, column in enumerate(columns):
            own = None if maps is None else maps[place]
            found.append(
                Explanation(
                    label=names[column],
                    score=float(scores[column]),
                    time=times[column],
                    place=None if own is None else _place(subject, own, column, float(scores[column])),
                    modalities={name: float(values[column]) for name, values in without.items()},
                    maps=own,
                )
            )
    return Explained(str(video), found, frames, middles.tolist(), method if maps is not None else "")


def check_method(method: str) -> None:
    """Raise ReeltagError for a method that there is not."""
    if method not in get_args(Method):
        raise ReeltagError(f"no method is called {method!r}; allowed: {', '.join(get_args(Method))}")


def _best(tagger: Tagger | EnsembleTagger, scores: NDArray[np.float32], count: int) -> list[int]:
    order = np.argsort(-scores, kind="stable").tolist()
    present = [column for column in order if scores[column] >= tagger.thresholds[column]]
    return present[:count] or order[:1]


def _times(subject: Subject, scores: NDArray[np.float32]) -> list[list[TimePart]]:
    """Return, by label, what is lost when each part of the time is hidden in all modalities."""
    left = 1 - torch.eye(subject.num_parts)  # (K, K)
    keep = left[:, :, None, None].expand(-1, -1, *subject.grid) if subject.grid[0] else None
    hidden = subject.scores(keep, left)  # (K, L)
    drops, evidence = scores - hidden, logits_of(scores) - logits_of(hidden)
    spans = list(zip(subject.edges_s[:-1].tolist(), subject.edges_s[1:].tolist(), strict=True))
    return [
        [TimePart(*span, float(drops[at, label]), float(evidence[at, label])) for at, span in enumerate(spans)]
        for label in range(len(scores))
    ]


def _modality_drops(subject: Subject, scores: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    if len(subject.tagger.takes) < 2:
        return {}
    return {name: scores - subject.scores(without=[name])[0] for name in subject.modalities}


def _place(subject: Subject, maps: NDArray[np.float32], column: int, score: float) -> Place | None:
    """Return the box around the best cell, of its neighbours that are nearly as good, and its own drop."""
    part, row, at = np.unravel_index(int(maps.argmax()), maps.shape)
    best = float(maps[part, row, at])
    if best <= 0:
        return None
    strong = _connected(maps[part] >= _BOX_SHARE * best, int(row), int(at))
    rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    keep = torch.ones(1, subject.num_parts, *subject.grid)
    keep[0, part, top:bottom, left:right] = 0
    hidden = subject.scores(keep)[0, column]
    evidence = float(logits_of(np.float32(score)) - logits_of(hidden))
    height, width = subject.grid
    box = (float(left) / width, float(top) / height, float(right) / width, float(bottom) / height)
    return Place(float(subject.edges_s[part] + subject.edges_s[part + 1]) / 2, box, score - float(hidden), evidence)


def _connected(strong: NDArray[np.bool_], row: int, column: int) -> NDArray[np.bool_]:
    """Return those of the strong cells that hang together with one of them."""
    from scipy.ndimage import label

    groups, _ = label(strong)
    return np.asarray(groups == groups[row, column])
