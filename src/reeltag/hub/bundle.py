"""Bundles: a trained tagger as a folder of safetensors and JSON; a run folder is read the same way."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reeltag.data.feature_source import SOURCE_FILE, FeatureSource
from reeltag.errors import StoreError
from reeltag.models.image2d import fit_input_channels
from reeltag.models.interface import VideoModel
from reeltag.recipe import Recipe
from reeltag.store.atomic import sha256_of, write_atomic, write_json
from reeltag.store.calibration import DEFAULT_THRESHOLD, THRESHOLDS_FILE, Calibration
from reeltag.store.checkpoint import CHECKSUMS, read_tensors, verify_checksums, write_checksums, write_tensors
from reeltag.store.run import RunFolder


@dataclass(frozen=True)
class TrainedModel:
    """What a run folder or a bundle holds, before it is built.

    Attributes:
        path: the folder.
        recipe: the resolved recipe.
        label_names: L names, index order.
        weights: the model's state dict.
        calibration: what its scores and its decisions are read by; None = scores as they are, and 0.5.
        weights_hash: SHA-256 of the safetensors file.
        run: the run folder when it is one.
        features: what makes the features that it was trained on, for a model on stored features.
        label_shares: (L) shares of the training clips that carry each label, the guess where a video gives nothing to
            go by; None where nothing recorded them.
    """

    path: Path
    recipe: Recipe
    label_names: list[str]
    weights: dict[str, Tensor]
    weights_hash: str
    calibration: Calibration | None = None
    run: RunFolder | None = None
    features: FeatureSource | None = None
    label_shares: list[float] | None = None

    @property
    def thresholds(self) -> list[float]:
        """L scores from which a label counts as present."""
        none = [DEFAULT_THRESHOLD] * len(self.label_names)
        return none if self.calibration is None else self.calibration.thresholds


def read_trained(path: str | Path, *, checkpoint: str = "last") -> TrainedModel:
    """Read a run folder, or a bundle, after checking its digests.

    Args:
        path: the folder.
        checkpoint: `last` or `best`, for a run folder.

    Raises:
        StoreError: nothing there, no whole checkpoint, or a file that changed since it was written.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return _read_bundle(folder)
    if not folder.exists():
        raise StoreError(f"{path} does not exist; give a run folder (`reeltag train` makes one) or a bundle")
    run = RunFolder.open(folder)
    weights = run.checkpoint(checkpoint)
    verify_checksums(weights)
    file = weights / "model.safetensors"
    digest = sha256_of(file)
    return TrainedModel(
        folder,
        run.recipe,
        run.label_names,
        read_tensors(file),
        digest,
        _calibration(folder, run.label_names, digest),
        run,
        _source(folder),
        run.facts.get("label_shares"),
    )


def _read_bundle(folder: Path) -> TrainedModel:
    verify_checksums(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    labels: list[str] = json.loads((folder / "labels.json").read_text())
    file = folder / "model.safetensors"
    recipe = Recipe.model_validate(config["recipe"])
    digest = sha256_of(file)
    return TrainedModel(
        folder,
        recipe,
        labels,
        read_tensors(file),
        digest,
        _calibration(folder, labels, digest),
        features=_source(folder),
        label_shares=config.get("label_shares"),
    )


def _source(folder: Path) -> FeatureSource | None:
    return FeatureSource.read(folder) if (folder / SOURCE_FILE).is_file() else None


def _calibration(folder: Path, label_names: list[str], weights_hash: str) -> Calibration | None:
    found = Calibration.read(folder, label_names)
    if found is None or found.weights_hash in ("", weights_hash):
        return found
    warnings.warn(
        f"{folder} was calibrated with other weights than these, so scores stay as they are, with thresholds of 0.5; "
        f"`reeltag calibrate {folder}` calibrates anew",
        stacklevel=3,
    )
    return None


def store_calibration(calibration: Calibration, folder: Path) -> None:
    """Write a calibration into a run folder or a bundle; the digests of a bundle are made anew."""
    calibration.write(folder)
    if (folder / CHECKSUMS).is_file():
        write_checksums(folder)


def write_bundle(trained: TrainedModel, out: Path) -> Path:
    """Write a bundle folder: weights, config, labels, thresholds, a card and the digests."""
    if (out / "config.json").exists():
        raise StoreError(f"{out} already holds a bundle; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "model.safetensors", trained.weights)
    write_json(out / "labels.json", trained.label_names)
    if trained.calibration is not None:
        trained.calibration.write(out)
    else:
        write_json(out / THRESHOLDS_FILE, dict(zip(trained.label_names, trained.thresholds, strict=True)))
    config: dict[str, Any] = {"format": "reeltag bundle 1", "recipe": trained.recipe.model_dump(mode="json")}
    if trained.label_shares is not None:
        config["label_shares"] = trained.label_shares
    write_json(out / "config.json", config)
    write_atomic(out / "README.md", _card(trained).encode())
    if trained.features is not None:
        trained.features.copy_to(trained.path, out)
    write_checksums(out)
    return out


def _card(trained: TrainedModel) -> str:
    names = ", ".join(trained.label_names[:20]) + (" ..." if len(trained.label_names) > 20 else "")
    return (
        f"# {trained.recipe.model.name}, {len(trained.label_names)} labels\n\n"
        f"A multi-label video tagger made with reeltag. Labels: {names}.\n\n"
        "```python\nimport reeltag\ntagger = reeltag.Tagger.from_pretrained('.')\nprint(tagger('clip.mp4'))\n```\n\n"
        f"Recipe:\n\n```yaml\n{trained.recipe.to_yaml()}```\n"
    )


def load_weights(model: VideoModel, path: str) -> list[str]:
    """Load the weights of a run folder or bundle; a classifier of another size stays as drawn, and is named.

    Where the model takes another number of channels, the first convolution is averaged over its own (TSN's way from RGB
    to flow). A model without classifier, as the stream of a fusion is, leaves out the file's.

    Returns:
        The names of the tensors that were left as drawn.

    Raises:
        StoreError: other keys are missing, left over or of another shape.
    """
    own = model.state_dict()
    weights = fit_input_channels(read_trained(path).weights, own)
    if not any(map(_in_classifier, own)):
        weights = {name: tensor for name, tensor in weights.items() if not _in_classifier(name)}
    fresh = [name for name, tensor in weights.items() if name in own and own[name].shape != tensor.shape]
    wrong = [name for name in fresh if not _in_classifier(name)]
    missing, left_over = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if wrong or missing or left_over:
        raise StoreError(
            f"{path} does not fit this model: missing {missing[:3]}, left over {left_over[:3]}, other shape {wrong[:3]}"
        )
    model.load_state_dict({**own, **{name: tensor for name, tensor in weights.items() if name not in fresh}})
    if fresh:
        warnings.warn(f"{path} has another number of labels: the classifier is drawn anew", stacklevel=2)
    return fresh


def _in_classifier(name: str) -> bool:
    return "classifier." in name
