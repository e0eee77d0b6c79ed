"""Run a model over the views of videos and average them: the one way in which a validation or a test is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Average = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class VideoScores:
    """Probabilities of the videos of one batch.

    Attributes:
        rows: (B,) rows of the manifest.
        scores: (B, L), the average over views, in [0, 1].
        views: (B, V, L), each view's own probabilities.
        bad: what could not be read in this batch, one dictionary a file.
    """

    rows: Tensor
    scores: Tensor
    views: Tensor
    bad: list[dict[str, Any]]


def average_views(logits: Tensor, average: Average) -> Tensor:
    """Average (B, V, L) logits over views into (B, L) probabilities: mean of logits first, or mean of probabilities."""
    if average == "logits":
        return logits.mean(1).sigmoid()
    return logits.sigmoid().mean(1)


def score_batch(model: nn.Module, video: Tensor, average: Average) -> tuple[Tensor, Tensor]:
    """Return (B, L) averaged and (B, V, L) single probabilities of videos uint8 (B, V, T, C, H, W)."""
    logits = model(video.flatten(0, 1)).float().unflatten(0, video.shape[:2])  # (B, V, L)
    return average_views(logits, average), logits.sigmoid()


def score_videos(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    average: Average = "probabilities",
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[VideoScores]:
    """Yield the scores of each batch of a loader; the model is put in evaluation mode and back afterwards."""
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            if not len(batch["rows"]):
                yield VideoScores(batch["rows"], torch.empty(0, 0), torch.empty(0, 0, 0), batch["bad"])
                continue
            with torch.inference_mode(), autocast():
                scores, views = score_batch(model, batch["video"].to(device, non_blocking=True), average)
            yield VideoScores(batch["rows"], scores.cpu(), views.cpu(), batch["bad"])
    finally:
        model.train(was_training)
