"""The figure of a paper: a few clips, what each carries, and its six best predictions as `Name(index)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reeltag.errors import StoreError
from reeltag.report.clips import ClipCard, FramesOf, best_and_worst
from reeltag.store.atomic import atomic_path
from reeltag.store.scores import Scores

PREDICTIONS = 6
FORMATS = (".png", ".pdf", ".svg")
_RIGHT, _WRONG, _SOFT = "#147a46", "#b3261e", "#5f6672"


def write_figure(out: Path, scores: Scores, frames_of: FramesOf | None, *, num_clips: int = 6) -> Path:
    """Write clips with their six best predictions, the better half of them first; returns the path.

    As figure 3 of RippleAI's report on Multi-Moments in Time 2019: a prediction is a label's name with its index, here
    with its probability; green if the clip carries it, red if not. What the clip carries stands above its frames.

    Args:
        out: the picture, `.png`, `.pdf` or `.svg`.
        scores: with truth.
        frames_of: returns uint8 (T, H, W, 3) frames of a video, or None where there is no picture.
        num_clips: how many, the best ranked and the worst ranked of all, half of each.

    Raises:
        StoreError: another format, no truth, or no clip with a label.
    """
    from matplotlib.figure import Figure  # a second to load

    if out.suffix.lower() not in FORMATS:
        raise StoreError(f"{out} is no figure that can be written; its name ends with {', '.join(FORMATS)}")
    best, worst = best_and_worst(scores, None, num_clips=(num_clips + 1) // 2)
    cards = (best + worst[::-1])[:num_clips]
    if not cards:
        raise StoreError("no clip has labels, so no figure of clips can be drawn; evaluate with labels")
    figure = Figure(figsize=(9, 1.9 * len(cards)), dpi=150, layout="constrained")
    axes = figure.subplots(len(cards), 2, width_ratios=(3, 2), squeeze=False)
    for (left, right), card in zip(axes, cards, strict=True):
        for axis in (left, right):
            axis.axis("off")
        frames = None if frames_of is None else frames_of(card.video_id)
        if frames is not None:
            left.imshow(np.concatenate(list(frames), axis=1))
        left.set_title(_carried(card, scores), fontsize=8, loc="left", color=_SOFT, wrap=True)
        for line, (text, color) in enumerate(_predictions(card, scores)):
            right.text(0, 1 - (line + 0.5) / PREDICTIONS, text, fontsize=9, color=color, va="center", parse_math=False)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format=out.suffix.lower()[1:])
    return out


def _carried(card: ClipCard, scores: Scores) -> str:
    row = scores.video_ids.index(card.video_id)
    assert scores.targets is not None  # there would be no card
    names = [name for name, there in zip(scores.label_names, scores.targets[row], strict=True) if there]
    return ", ".join(names).replace("$", r"\$")


def _predictions(card: ClipCard, scores: Scores) -> list[tuple[str, str]]:
    """Return (text, colour) of the best predictions of a clip."""
    row = scores.video_ids.index(card.video_id)
    probabilities = scores.probabilities()[row]
    assert scores.targets is not None  # there would be no card
    found = []
    for label in np.argsort(-probabilities, kind="stable")[:PREDICTIONS].tolist():
        known = scores.ignore is None or not scores.ignore[row, label]
        color = _SOFT if not known else _RIGHT if scores.targets[row, label] else _WRONG
        found.append((f"{scores.label_names[label]}({label})  {probabilities[label]:.2f}", color))
    return found
