"""Run a model over the views of videos and average them: the one way in which a validation or a test is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reeltag.schema import INPUT_NAMES

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
        absent: rows of videos that have nothing of what the model takes.
    """

    rows: Tensor
    scores: Tensor
    views: Tensor
    bad: list[dict[str, Any]]
    absent: list[int] = field(default_factory=list)


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Return the probabilities of (..., L) logits: each label's own (`sigmoid`), or shares of 1 (`softmax`)."""
    return logits.softmax(-1) if activation == "softmax" else logits.sigmoid()


def average_views(logits: Tensor, average: Average, activation: Activation = "sigmoid") -> Tensor:
    """Average (B, V, L) logits over views into (B, L) probabilities: mean of logits first, or mean of probabilities."""
    if average == "logits":
        return probabilities(logits.mean(1), activation)
    return probabilities(logits, activation).mean(1)


def model_inputs(
    model: nn.Module, batch: Mapping[str, Any], device: torch.device | str = "cpu"
) -> tuple[Tensor | dict[str, Tensor] | None, ...]:
    """Return what `forward` takes for all views of a batch, on a device, by the model's `input_kind`.

    Args:
        model: without wrappers.
        batch: see `schema.Batch`.
        device: where the model is.

    Returns:
        `rgb` and `flow`: (clips,) with clips uint8 (B*V, T, C, H, W), whichever of the two the batch holds.
        `waveform`: (waveforms,), float32 (B*V, N).
        `fusion`: (inputs by modality, present) with present bool (B*V, M).
        `features`: (features, mask) with features (B*V, T, D) and mask bool (B*V, T), None when no frame is padding.

    Raises:
        ValueError: the batch holds nothing that the model takes.
    """

    def views(name: str) -> Tensor:
        each: Tensor = batch[name].to(device, non_blocking=True).flatten(0, 1)
        return each

    kind = getattr(model, "input_kind", "rgb")
    if kind == "features":
        whole = bool(batch["mask"].all())
        return views("features"), None if whole else views("mask")
    given = {modality: name for modality, name in INPUT_NAMES.items() if name in batch}
    if kind == "fusion":
        present = batch["present"].to(device, non_blocking=True).repeat_interleave(num_views(batch), 0)
        return {modality: views(name) for modality, name in given.items()}, present
    name = "waveform" if kind == "waveform" else "video" if "video" in batch else "flow"
    if name not in batch:
        raise ValueError(f"a model that takes {kind} is given {', '.join(given) or 'nothing'}")
    return (views(name),)


def num_views(batch: Mapping[str, Any]) -> int:
    """Return V of a batch."""
    return next(int(batch[name].shape[1]) for name in (*INPUT_NAMES.values(), "features") if name in batch)


def score_batch(
    model: nn.Module,
    batch: Mapping[str, Any],
    average: Average,
    device: torch.device | str = "cpu",
    activation: Activation = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """Return (B, L) averaged and (B, V, L) single probabilities of the videos of a batch; see `schema.Batch`."""
    logits = model(*model_inputs(model, batch, device)).float().unflatten(0, (-1, num_views(batch)))  # (B, V, L)
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
                yield VideoScores(
                    batch["rows"], torch.empty(0, 0), torch.empty(0, 0, 0), batch["bad"], batch.get("absent", [])
                )
                continue
            with torch.inference_mode(), autocast():
                scores, views = score_batch(model, batch, average, device, activation)
            yield VideoScores(batch["rows"], scores.cpu(), views.cpu(), batch["bad"], batch.get("absent", []))
    finally:
        model.train(was_training)
