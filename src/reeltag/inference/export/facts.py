"""What an exported file says of itself: labels, thresholds, inputs, and the views that its caller must make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import reeltag
from reeltag.data.views import TestView
from reeltag.hub.bundle import TrainedModel
from reeltag.inference.export.network import OUTPUTS, Input
from reeltag.schema import Modality
from reeltag.store.calibration import Calibration

FORMAT = "reeltag export 1"
KEY = "reeltag"  # of ONNX metadata; the extra file of a pt2 archive is `reeltag.json`
EXTRA_FILE = "reeltag.json"


def facts_of(trained: TrainedModel, inputs: Sequence[Input], modalities: Sequence[Modality]) -> dict[str, Any]:
    """Return the facts as JSON values; docs/export.md says what each means.

    Args:
        trained: recipe (with the views that were asked for), labels, thresholds and digest.
        inputs: of the file.
        modalities: what the model takes; none for stored features.
    """
    test = trained.recipe.test
    return {
        "format": FORMAT,
        "reeltag": reeltag.__version__,
        "torch": torch.__version__,
        "model": trained.recipe.model.name,
        "weights_hash": trained.weights_hash,
        "recipe_hash": trained.recipe.hash,
        "labels": trained.label_names,
        "thresholds": trained.thresholds,
        "calibration": _lines(trained.calibration),
        "inputs": [{"name": each.name, "dtype": each.dtype, "shape": each.shape} for each in inputs],
        "outputs": [{"name": name, "shape": ["batch", len(trained.label_names)]} for name in OUTPUTS],
        "modalities": list(modalities),
        "activation": test.activation,
        "views": {"clips": test.clips, "crops": test.crops, "average": test.average},
        **_sections(trained, modalities),
    }


def _lines(calibration: Calibration | None) -> dict[str, list[float]] | None:
    if calibration is None or not calibration.changes_scores:
        return None
    return {"slopes": calibration.slopes, "shifts": calibration.shifts}


def _sections(trained: TrainedModel, modalities: Sequence[Modality]) -> dict[str, Any]:
    data = trained.recipe.data
    frames = {key: getattr(data, key) for key in ("num_frames", "sampling", "stride", "fps")}
    if not modalities:
        source = trained.features
        made_by = None if source is None else {"extractor": source.extractor, "weights_hash": source.weights_hash}
        return {"frames": frames, "features": made_by}
    found: dict[str, Any] = {}
    if set(modalities) & {"rgb", "flow"}:
        view = TestView(data, trained.recipe.test, modalities)
        short_side_px = trained.recipe.test.short_side_px or data.short_side_px
        found["frames"] = frames
        found["picture"] = {"short_side_px": short_side_px, "keep_aspect": data.keep_aspect, "crop_px": view.size_px}
    if "flow" in modalities:
        found["flow"] = data.motion.model_dump(mode="json")
    if "audio" in modalities:
        keys = ("rate_hz", "seconds", "padding", "margin_seconds", "trim_db", "silence_db")
        found["audio"] = {key: getattr(data.audio, key) for key in keys}
    return found
