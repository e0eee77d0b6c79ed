"""From a recipe to objects: the only file that knows every kind of part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reeltag.data.dataset import ClipDataset, View, balanced_weights, label_swaps
from reeltag.data.example_weights import class_balanced_weights, repeat_factors
from reeltag.data.feature_view import FeatureTestView, FeatureTrainingView
from reeltag.data.footage import FeatureFootage, Footage
from reeltag.data.manifest import Manifest
from reeltag.data.mixing import MIXES_ALL, MixedClips
from reeltag.data.views import TestView, TrainingView
from reeltag.data.vocab import vocabulary
from reeltag.errors import ManifestError, RecipeError
from reeltag.hub.bundle import load_weights
from reeltag.inputs import check_input, modalities_of
from reeltag.losses import LOSSES, NOT_IN_RECIPES, SOFT_TARGETS
from reeltag.losses.label_weights import label_weights
from reeltag.metrics import METRICS
from reeltag.models import MODELS
from reeltag.models.fusion import FusionModel
from reeltag.models.interface import VideoModel
from reeltag.models.thresholded import ThresholdedModel
from reeltag.recipe import LossSection, Recipe
from reeltag.registry import close_name
from reeltag.schema import Modality

Loss = Callable[..., Tensor]
TrainingClips = ClipDataset | MixedClips


@dataclass(frozen=True)
class Parts:
    """The objects that a recipe names, ready for the trainer.

    Attributes:
        model: with a classifier for `label_names`.
        loss: from (logits, targets, ignore=) to a scalar.
        training: clips drawn by the recipe's training view.
        test: the recipe's test views of the same footage.
        train_rows: rows of the manifest to train on; `val_rows`: to validate on, possibly none.
        weights: how often each training row is drawn, or None for once an epoch.
    """

    recipe: Recipe
    label_names: list[str]
    model: VideoModel
    loss: Loss
    training: TrainingClips
    test: ClipDataset
    train_rows: list[int]
    val_rows: list[int]
    weights: list[float] | None = None


def check(recipe: Recipe) -> None:
    """Raise RecipeError or UnknownName when a part does not exist or does not take an option that the recipe gives."""
    MODELS.check(recipe.model.name, recipe.model.options)
    LOSSES.check(recipe.loss.name, recipe.loss.options)
    _ = METRICS[recipe.train.best_by]
    for option in NOT_IN_RECIPES & set(recipe.loss.options):
        raise RecipeError(f"loss.{option} is given by the data or by code, not a recipe setting; leave it out")
    _check_loss(recipe)


def _check_loss(recipe: Recipe) -> None:
    """Raise RecipeError when the loss does not take the targets, weights or thresholds that the recipe gives it."""
    loss, data = recipe.loss, recipe.data
    if (data.mix is not None or data.smoothing) and loss.name not in SOFT_TARGETS:
        what = f"data.mix {data.mix.name}" if data.mix is not None else "data.smoothing"
        raise RecipeError(
            f"{what} makes targets between 0 and 1, and loss {loss.name!r} takes 0 or 1 alone; "
            f"choose one of {', '.join(sorted(SOFT_TARGETS))}, or leave {what.split()[0]} out"
        )
    if loss.label_weights != "none" and _weight_option(loss) not in LOSSES.schema(loss.name):
        able = [name for name in LOSSES if _weight_option(loss) in LOSSES.schema(name)]
        raise RecipeError(
            f"loss {loss.name!r} takes no weight of {'present ' * (loss.weigh == 'present')}labels; "
            f"{' and '.join(able)} do. Leave loss.label_weights out, or choose one of them"
        )
    if loss.name == "lsep_threshold":
        raise RecipeError(
            "lsep_threshold trains thresholds beside scores: set loss.thresholds=clip on the scores' loss"
        )


def _weight_option(loss: LossSection) -> str:
    return "pos_weight" if loss.weigh == "present" else "weight"


def build_loss(recipe: Recipe, counts: Tensor) -> Loss:
    """Return the recipe's loss with its label weights.

    Args:
        recipe: the recipe.
        counts: (L,) training clips that carry each label.
    """
    section = recipe.loss
    options = dict(section.options)
    if section.label_weights != "none":
        power = 0.5 if "root" in section.label_weights else 1.0
        inverse = section.label_weights.startswith("inverse")
        options[_weight_option(section)] = label_weights(counts, power=power, inverse=inverse)
    return LOSSES.bind(section.name, **options)


def create_model(
    name: str, *, num_labels: int, num_frames: int | None = None, pretrained: str | bool | None = None, **options: Any
) -> VideoModel:
    """Build a registered model by name.

    Args:
        name: for example `tsm_resnet50`; `reeltag.list_models()` shows the names, `tsn_` and `tsm_` take any backbone.
        num_labels: L.
        num_frames: T, for the models whose layers depend on it; the others take any T.
        pretrained: None for drawn weights, True for the backbone's published image weights, or the path of a run folder
            or bundle whose weights are loaded (another number of labels replaces the classifier). The streams of a
            fusion take it too, each its own.
        **options: the model's own; `MODELS.schema(name)` lists them.

    Raises:
        UnknownName: no such model or backbone.
        RecipeError: an option that the model does not take.
    """
    schema = MODELS.schema(name)
    MODELS.check(name, options)
    if num_frames is not None and "num_frames" in schema:
        options["num_frames"] = num_frames
    if pretrained is True:
        options["pretrained"] = True
    try:
        model = MODELS.build(name, num_labels=num_labels, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model {name!r}: {error}") from error
    if isinstance(pretrained, str):
        load_weights(model, pretrained)
    if isinstance(model, FusionModel):
        for modality, path in model.starts.items():
            load_weights(model.streams[modality], path)
    return model


def without_starts(recipe: Recipe) -> Recipe:
    """Return the recipe with drawn first weights: what is built to take the weights of a run or a bundle."""
    changed = recipe.replace(**{"model.pretrained": None})
    streams = changed.model.options.get("streams")
    if not isinstance(streams, dict):
        return changed
    bare = {
        name: {k: v for k, v in given.items() if k != "pretrained"} if isinstance(given, dict) else given
        for name, given in streams.items()
    }
    return changed.replace(**{"model.streams": bare})


def build_model(recipe: Recipe, num_labels: int) -> VideoModel:
    """Build the recipe's model with weights drawn from `train.seed`, kernels in channels_last order."""
    torch.manual_seed(recipe.train.seed)
    section = recipe.model
    model = create_model(
        section.name,
        num_labels=num_labels,
        num_frames=recipe.data.num_frames,
        pretrained=section.pretrained,
        **section.options,
    )
    if recipe.loss.thresholds != "none":
        model = ThresholdedModel(model, recipe.loss.thresholds, recipe.loss.threshold_weight)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():  # `model.to(memory_format=...)` takes kernels of one kind alone
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
    return model


def build_datasets(
    recipe: Recipe, footage: Footage, modalities: Sequence[Modality] = ("rgb",), *, without: Sequence[str] = ()
) -> tuple[ClipDataset, ClipDataset]:
    """Return the training clips and the test views of one footage, of pictures and sound or of stored features.

    Args:
        recipe: the recipe.
        footage: where clips come from.
        modalities: what the model takes, see `reeltag.inputs.modalities_of`.
        without: modalities that the test counts as missing.
    """
    names = list(footage.manifest.label_names)
    try:
        swaps = label_swaps(recipe.data.swap_labels, names)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    views: tuple[View, View] = (
        (FeatureTrainingView(recipe.data), FeatureTestView(recipe.data, recipe.test))
        if footage.input_kind == "features"
        else (TrainingView(recipe.data, modalities), TestView(recipe.data, recipe.test, modalities, without))
    )
    training = ClipDataset(footage, views[0], seed=recipe.train.seed, swaps=swaps)
    return training, ClipDataset(footage, views[1], seed=recipe.train.seed)


def fit_to_footage(recipe: Recipe, footage: Footage) -> Recipe:
    """Return the recipe with what the footage decides: `model.feature_sizes` of a model on stored features.

    Raises:
        RecipeError: the recipe states other sizes.
    """
    if not isinstance(footage, FeatureFootage) or "feature_sizes" not in MODELS.schema(recipe.model.name):
        return recipe
    found = footage.store.feature_sizes
    stated = recipe.model.options.get("feature_sizes")
    if stated is not None and tuple(stated) != found:
        raise RecipeError(
            f"model.feature_sizes={list(stated)}, but {footage.store.folder} holds {list(found)}; leave the key out"
        )
    return recipe.replace(**{"model.feature_sizes": list(found)})


def check_labels(recipe: Recipe, manifest: Manifest) -> None:
    """Raise ManifestError when the recipe names a vocabulary and the manifest has other labels."""
    if recipe.data.labels is None:
        return
    wanted, found = vocabulary(recipe.data.labels), list(manifest.label_names)
    if wanted != found:
        strange = [name for name in found if name not in set(wanted)][:3]
        what = f"{', '.join(map(repr, strange))} not in it" if strange else "the order or the number differs"
        raise ManifestError(
            f"the recipe's vocabulary {recipe.data.labels!r} has {len(wanted)} labels, the manifest {len(found)}: "
            f"{what}; import the data with --labels, or set data.labels=null"
        )


def build_parts(recipe: Recipe, footage: Footage, *, train_split: str = "train", val_split: str = "val") -> Parts:
    """Build everything that training needs from a recipe and footage whose manifest has splits.

    Raises:
        RecipeError, UnknownName: see `check`.
        ManifestError: no clip in the training split, or labels that are not the recipe's.
    """
    check(recipe)
    recipe = fit_to_footage(recipe, footage)
    manifest = footage.manifest
    check_labels(recipe, manifest)
    names = list(manifest.label_names)
    train_rows, val_rows = rows_of(manifest, train_split), rows_of(manifest, val_split, needed=False)
    model = build_model(recipe, len(names))
    check_input(model, recipe, footage)
    if recipe.train.bias_prior:
        model.set_bias(log_prior(manifest, train_rows))
    modalities = modalities_of(recipe, model)
    clips, test = build_datasets(recipe, footage, modalities)
    targets = clips.targets[train_rows]
    loss = build_loss(recipe, targets.sum(0))
    weights = draw_weights(recipe, targets, names)
    training: TrainingClips = clips
    if recipe.data.mix is not None or recipe.data.smoothing:
        check_mix(recipe, footage, modalities)
        training = MixedClips(clips, train_rows, recipe.data.mix, recipe.data.smoothing)
    return Parts(recipe, names, model, loss, training, test, train_rows, val_rows, weights)


def check_mix(recipe: Recipe, footage: Footage, modalities: Sequence[Modality] = ("rgb",)) -> None:
    """Raise RecipeError for a mixture of pictures when the clips are, or have, something else."""
    if recipe.data.mix is None or recipe.data.mix.name in MIXES_ALL:
        return
    name, others = recipe.data.mix.name, " and ".join(sorted(MIXES_ALL))
    if footage.input_kind == "features":
        raise RecipeError(f"data.mix {name} needs pixels, and this manifest holds features; {others} mix features too")
    if "audio" in modalities or ("flow" in modalities and name != "cutmix"):
        what = "sound" if "audio" in modalities else "flow"
        raise RecipeError(f"data.mix {name} is made for pictures, and the model takes {what}; {others} mix {what} too")


def draw_weights(recipe: Recipe, targets: Tensor, names: list[str]) -> list[float] | None:
    """Return how often each training clip is drawn, by `data.balance_labels` or `data.sample`; None for once an epoch.

    Args:
        recipe: the recipe.
        targets: (N, L) of the training clips.
        names: the L labels.
    """
    data = recipe.data
    if data.balance_labels:
        return balanced_weights(targets, _columns(data.balance_labels, names))
    if data.sample == "class_balanced":
        return class_balanced_weights(targets)
    if data.sample == "repeat_factor":
        return repeat_factors(targets, data.repeat_threshold)
    return None


def _columns(wanted: list[str], names: list[str]) -> list[int]:
    for name in wanted:
        if name not in names:
            raise RecipeError(
                f"data.balance_labels: {name!r} is no label of this manifest. {close_name(name, names)}"
                f"It has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            )
    return [names.index(name) for name in wanted]


def rows_of(manifest: Manifest, split: str, *, needed: bool = True) -> list[int]:
    """Return the rows of one split; with `needed`, ManifestError when it has none."""
    splits = manifest.splits or ("",) * len(manifest)
    rows = [row for row, name in enumerate(splits) if name == split]
    if needed and not rows:
        found = ", ".join(sorted(repr(name) for name in set(splits) if name)) or "none"
        raise ManifestError(
            f"the manifest has no clip in the split {split!r} (splits found: {found}); "
            "`reeltag data split MANIFEST` makes train, val and test"
        )
    return rows


def log_prior(manifest: Manifest, rows: list[int]) -> Tensor:
    """Return (L,) log odds of each label among `rows`, with half a clip added to both sides so none is infinite."""
    counts = torch.from_numpy(manifest.targets()[rows]).sum(0).double()
    odds: Tensor = ((counts + 0.5) / (len(rows) - counts + 0.5)).log().float()
    return odds
