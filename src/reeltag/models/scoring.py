"""Run a model over the views of videos and average them: the one way in which a validation or a test is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Average = Literal["logits", "probabilities"]
Activation = Literal["sigmoid", "softmax"]


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


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Return the probabilities of (..., L) logits: each label's own (`sigmoid`), or shares of 1 (`softmax`)."""
    return logits.softmax(-1) if activation == "softmax" else logits.sigmoid()


def average_views(logits: Tensor, average: Average, activation: Activation = "sigmoid") -> Tensor:
    """Average (B, V, L) logits over views into (B, L) probabilities: mean of logits first, or mean of probabilities."""
    if average == "logits":
        return probabilities(logits.mean(1), activation)
    return probabilities(logits, activation).mean(1)


def model_inputs(batch: Mapping[str, Any], device: torch.device | str = "cpu") -> tuple[Tensor | None, ...]:
    """Return what `forward` takes for all views of a batch, on a device.

    Returns:
        (clips,) with clips uint8 (B*V, T, C, H, W); or (features, mask) with features (B*V, T, D) and mask bool
        (B*V, T), None when no frame is padding.
    """
    if "video" in batch:
        return (batch["video"].to(device, non_blocking=True).flatten(0, 1),)
    features = batch["features"].to(device, non_blocking=True).flatten(0, 1)
    whole = bool(batch["mask"].all())
    return features, None if whole else batch["mask"].to(device, non_blocking=True).flatten(0, 1)


def score_batch(
    model: nn.Module,
    batch: Mapping[str, Any],
    average: Average,
    device: torch.device | str = "cpu",
    activation: Activation = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """Return (B, L) averaged and (B, V, L) single probabilities of the videos of a batch; see `schema.Batch`."""
    shape = (batch["video"] if "video" in batch else batch["features"]).shape[:2]  # (B, V)
    logits = model(*model_inputs(batch, device)).float().unflatten(0, shape)  # (B, V, L)
    return average_views(logits, average, activation), probabilities(logits, activation)


def score_videos(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    average: Average = "probabilities",
    activation: Activation = "sigmoid",
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
                scores, views = score_batch(model, batch, average, device, activation)
            yield VideoScores(batch["rows"], scores.cpu(), views.cpu(), batch["bad"])
    finally:
        model.train(was_training)
