"""A published checkpoint file to a bundle: what `reeltag convert` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reeltag.data.vocab import vocabulary, vocabulary_names
from reeltag.errors import ManifestError
from reeltag.hub.bundle import TrainedModel, write_bundle
from reeltag.hub.convert.renaming import unwrap
from reeltag.hub.published import Published, build_published, read_published
from reeltag.models.interface import VideoModel
from reeltag.models.pooled import PooledVideoModel
from reeltag.models.sound import SoundModel
from reeltag.recipe import recipe_with
from reeltag.store.atomic import sha256_of

# Label counts of public sets with several labels a clip: Charades, Multi-Moments in Time, AudioSet, HVU, YouTube-8M.
# Every other published network learned one label a clip by a softmax.
_SEVERAL_LABELS = (157, 313, 527, 739, 3862)


def convert_file(
    file: Path,
    out: Path,
    *,
    source: str,
    name: str,
    labels: str | None = None,
    overrides: Sequence[str] = (),
    also: Sequence[Path] = (),
) -> tuple[TrainedModel, bool]:
    """Write a bundle with the weights of a published checkpoint.

    Weights without a classifier (VGGish) get a drawn one: for the given labels, else for one. Such a bundle is to be
    trained, by `model.pretrained=OUT` in a recipe.

    Its scores are softmax probabilities, so that at most one label reaches the threshold of 1/2, unless the number of
    labels is that of a set with several labels a clip; `test.activation` says otherwise.

    Args:
        file: the checkpoint as its authors published it.
        out: folder of the bundle.
        source: `reeltag list sources` shows the names.
        name: our model.
        labels: a shipped vocabulary or a text file. Without it the shipped vocabulary of that length is taken when
            there is just one; else the labels are called label_000, ...
        overrides: `section.key=value` of the bundle's recipe: the model's options, the frames and crops at test time.
        also: further files that the authors published with it, such as VGGish's principal components.

    Returns:
        What is in the bundle, and whether the weights held a classifier.

    Raises:
        StoreError: the file cannot be read as weights, does not fit, or the bundle exists.
        ManifestError: another number of labels than the weights have.
    """
    asked = recipe_with({"model": {"name": name}}, overrides, "the bundle's recipe")
    found: dict[str, Any] = unwrap(read_published(file)) if also else read_published(file)
    for extra in also:
        found = {**found, **unwrap(read_published(extra))}
    published = build_published(found, source, name, options=asked.model.options)
    model: VideoModel = published.module
    if labels is not None and not published.classifier:
        model.reset_classifier(len(vocabulary(labels)))
    names = _label_names(labels, model.num_labels)
    recipe = recipe_with(_content(published, source), overrides, "the bundle's recipe")
    weights = model.state_dict()
    trained = TrainedModel(out, recipe, names, weights, sha256_of(file))
    write_bundle(trained, out)
    return trained, published.classifier


def _content(published: Published, source: str) -> dict[str, Any]:
    model: VideoModel = published.module
    options = {key: value for key, value in published.options.items() if key != "num_frames"}
    return {
        "source": {"paper": f"weights converted from {source}"},
        "data": _sound(model) if isinstance(model, SoundModel) else _pictures(model, published),
        "model": {"name": published.name, **options},
        "test": {
            "clips": 1,
            "crops": 1,
            "activation": "softmax" if published.classifier and model.num_labels not in _SEVERAL_LABELS else "sigmoid",
        },
    }


def _sound(model: SoundModel) -> dict[str, Any]:
    return {"audio": {"rate_hz": model.rate_hz, "seconds": model.num_samples / model.rate_hz}}


def _pictures(model: VideoModel, published: Published) -> dict[str, Any]:
    frames, _, _, side = model.clip_shape
    return {
        "num_frames": published.options.get("num_frames", frames),
        "sampling": "dense" if isinstance(model, PooledVideoModel) else "segments",
        "short_side_px": max(side, round(side * 8 / 7)),  # 256 for 224, 128 for 112
        "crop_px": side,
        "crop": "center",
    }


def _label_names(labels: str | None, count: int) -> list[str]:
    if labels is not None:
        names = vocabulary(labels)
        if len(names) != count:
            raise ManifestError(
                f"{labels} has {len(names)} labels, the weights have {count}; give the list of the weights"
            )
        return names
    fitting = [name for name in vocabulary_names() if len(vocabulary(name)) == count]
    if len(fitting) == 1:
        return vocabulary(fitting[0])
    width = len(str(count - 1))
    return [f"label_{index:0{width}d}" for index in range(count)]
