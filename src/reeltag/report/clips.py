"""The clips a report shows: which ones, what was said about them, and their frames as one small picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from reeltag.metrics.average_precision import video_ranks
from reeltag.metrics.pairs import Array, pairs_of
from reeltag.store.scores import Scores

FramesOf: TypeAlias = Callable[[str], Array | None]
Verdict = Literal["right", "wrong", "rest"]

_STRIP_FRAME_PX = 240
_JPEG_QUALITY = 78


@dataclass(frozen=True)
class Prediction:
    """One label of a card.

    Attributes:
        label: its name.
        score: its probability.
        place: among all labels, 1 is best.
        verdict: `right`: a label of the clip; `wrong`: not one, but placed above one; `rest`: below all of
            them, or its truth is unknown.
    """

    label: str
    score: float
    place: int
    verdict: Verdict


@dataclass(frozen=True)
class Strip:
    """Frames of a clip side by side in one JPEG: a data URI, the number of frames, and one frame's width / height."""

    uri: str
    num_frames: int
    aspect: float


@dataclass(frozen=True)
class ClipCard:
    """One clip: its average precision, the best predictions, the labels that are missing among them, its frames."""

    video_id: str
    average_precision: float
    predictions: list[Prediction]
    missed: list[Prediction]
    strip: Strip | None


def best_and_worst(
    scores: Scores, frames_of: FramesOf | None, *, num_clips: int
) -> tuple[list[ClipCard], list[ClipCard]]:
    """Return the cards of the clips that are ranked best and worst; no clip is in both.

    Clips are ordered by the average precision of their own labels, then by the distance between the lowest present
    and the highest absent probability. Clips without labels are left out.

    Args:
        scores: with targets.
        frames_of: returns uint8 (T, H, W, 3) frames of a video, or None where there is no picture.
        num_clips: at most so many of each.
    """
    if scores.targets is None or not scores.video_ids:
        return [], []
    pairs = pairs_of(scores.values, scores.targets, scores.ignore)
    precision = video_ranks(pairs).average_precision
    probabilities = scores.probabilities()
    known = np.ones(probabilities.shape, bool) if scores.ignore is None else ~scores.ignore
    present = (scores.targets > 0) & known
    lowest = np.where(present, probabilities, np.inf).min(axis=1)
    highest = np.where(known & ~present, probabilities, -np.inf).max(axis=1)
    labelled = np.flatnonzero(present.any(axis=1))
    order = labelled[np.lexsort(((lowest - highest)[labelled], precision[labelled]))]  # worst first
    num_worst, num_best = min(num_clips, (len(order) + 1) // 2), min(num_clips, len(order) // 2)

    def card(row: int) -> ClipCard:
        return _card(scores, probabilities[row], present[row], known[row], row, float(precision[row]), frames_of)

    return [card(row) for row in order[::-1][:num_best]], [card(row) for row in order[:num_worst]]


def strip_of(frames: Array) -> Strip:
    """Return frames uint8 (T, H, W, 3) as one JPEG, side by side, each at most 240 px on its longer side.

    Raises:
        ValueError: another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    num_frames, height, width = frames.shape[:3]
    shrink = min(1.0, _STRIP_FRAME_PX / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    strip = Image.new("RGB", (size[0] * num_frames, size[1]))
    for i, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR), (i * size[0], 0))
    data = io.BytesIO()
    strip.save(data, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    return Strip(uri, num_frames, size[0] / size[1])


def _card(
    scores: Scores,
    probabilities: Array,
    present: Array,
    known: Array,
    row: int,
    precision: float,
    frames_of: FramesOf | None,
) -> ClipCard:
    order = np.argsort(-probabilities, kind="stable")
    last_right = int(np.flatnonzero(present[order])[-1])
    shown = max(3, min(6, int(present.sum())))
    frames = None if frames_of is None else frames_of(scores.video_ids[row])

    def prediction(place: int) -> Prediction:
        label = int(order[place])
        verdict: Verdict = "rest"
        if present[label]:
            verdict = "right"
        elif known[label] and place < last_right:
            verdict = "wrong"
        return Prediction(scores.label_names[label], float(probabilities[label]), place + 1, verdict)

    return ClipCard(
        video_id=scores.video_ids[row],
        average_precision=precision,
        predictions=[prediction(place) for place in range(min(shown, len(order)))],
        missed=[prediction(place) for place in range(shown, len(order)) if present[order[place]]],
        strip=None if frames is None else strip_of(frames),
    )
