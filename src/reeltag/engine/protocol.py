"""What is set on a model before it trains: frozen parts, frozen norms, recomputed blocks."""

from __future__ import annotations

from torch import nn

from reeltag.errors import RecipeError
from reeltag.models.interface import VideoModel
from reeltag.sections import TrainSection


def prepare_model(model: VideoModel, train: TrainSection, *, processes: int = 1, device: str = "cpu") -> nn.Module:
    """Return the model as `train` wants it trained; it is changed in place.

    - `freeze: all_but_head` trains the classifier, and the threshold head where there is one: the protocol "Fixed" of
      Carreira, Zisserman, arXiv:1705.07750, section 4. No batch norm changes, none inside the head either. Their
      "Full-FT" is `none`.
    - `freeze_norms` keeps batch norms as they are: see `VideoModel.freeze_norms`.
    - `gradient_checkpointing` recomputes blocks in the backward pass (Chen et al., arXiv:1604.06174).
    - `sync_norms` takes the statistics of batch norms over all processes; with one it changes nothing.

    Raises:
        RecipeError: the model has no classifier to train alone, or no blocks to recompute; or `sync_norms` for several
            processes without GPUs, where torch cannot do it.
    """
    if train.freeze == "all_but_head":
        head = [getattr(model, name, None) for name in ("classifier", "thresholds")]
        kept = [module for module in head if isinstance(module, nn.Module)]
        if not kept:
            raise RecipeError(f"{type(model).__name__} has no classifier of its own; set train.freeze to none")
        model.freeze_norms("all")
        model.requires_grad_(False)
        for module in kept:
            module.requires_grad_(True)
    elif train.freeze_norms != "none":
        model.freeze_norms(train.freeze_norms)
    if train.gradient_checkpointing:
        try:
            model.set_gradient_checkpointing(True)
        except ValueError as error:
            raise RecipeError(f"train.gradient_checkpointing: {error}") from None
    if train.sync_norms and processes > 1:
        if device != "cuda":
            raise RecipeError(
                f"train.sync_norms needs GPUs, and this is a {device}; set train.freeze_norms, or leave it out"
            )
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model
