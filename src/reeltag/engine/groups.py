"""Parameter groups: which weights decay, and by what each group's learning rate differs from the run's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from reeltag.errors import RecipeError
from reeltag.models.interface import VideoModel
from reeltag.sections import TrainSection


def parameter_groups(model: nn.Module, train: TrainSection) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of one weight decay and one `lr_scale`.

    Matrices and kernels decay; norms, biases and single numbers do not. `lr_scale` is the product of

    - `bias_lr` for the biases of convolutions and linear layers, not of norms;
    - `head_lr` for the classifier, `first_conv_lr` for the first convolution or linear layer;
    - `layer_decay` to the power of the distance from the head, in blocks (`layer_numbers`).

    Sources: TSN's published groups are `bias_lr` 2, with `head_lr` 5 as in TSM's code and `first_conv_lr` 5 for flow
    (Wang et al., arXiv:1608.00859); layer-wise decay as in Bao et al. BEiT, arXiv:2106.08254, appendix.

    Raises:
        RecipeError: `head_lr` or `layer_decay` for a model without classifier or blocks, or nothing is trainable.
    """
    scales = _scales(model, train)
    groups: dict[tuple[bool, float], list[Tensor]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1, scales[id(parameter)]].append(parameter)
    if not groups:
        raise RecipeError("no parameter of the model is left to train; set train.freeze to none")
    return [
        {"params": parameters, "weight_decay": train.weight_decay if decays else 0.0, "lr_scale": scale}
        for (decays, scale), parameters in sorted(groups.items(), key=lambda item: (not item[0][0], -item[0][1]))
    ]


def _scales(model: nn.Module, train: TrainSection) -> dict[int, float]:
    scales = {id(parameter): 1.0 for parameter in model.parameters()}

    def scale(parameters: Iterable[Tensor], factor: float) -> None:
        for parameter in parameters:
            scales[id(parameter)] *= factor

    if train.bias_lr != 1:
        scale(_biases(model), train.bias_lr)
    if train.first_conv_lr != 1:
        scale(_first_layer(model).parameters(), train.first_conv_lr)
    if train.head_lr != 1:
        scale(_head(model).parameters(), train.head_lr)
    if train.layer_decay is not None:
        layers = layer_numbers(model)
        for key, layer in layers.items():
            scales[key] *= train.layer_decay ** (max(layers.values()) - layer)
    return scales


def layer_numbers(model: nn.Module) -> dict[int, int]:
    """Return each parameter's layer, by its id: 0 before the first block, i in block i of N, N + 1 behind the last.

    What stands between two blocks belongs to the earlier one; the classifier is always in layer N + 1.

    Raises:
        RecipeError: the model names no blocks.
    """
    blocks = list(model.blocks()) if isinstance(model, VideoModel) else []
    if not blocks:
        raise RecipeError(f"{type(model).__name__} has no blocks to count layers by; leave out train.layer_decay")
    of_block: dict[int, int] = {}
    for number, block in enumerate(blocks, 1):
        for parameter in block.parameters():
            of_block.setdefault(id(parameter), number)
    layers: dict[int, int] = {}
    left, layer = set(of_block), 0
    for key in map(id, model.parameters()):
        layer = of_block.get(key, layer if left else len(blocks) + 1)
        left.discard(key)
        layers[key] = layer
    return {**layers, **{id(parameter): len(blocks) + 1 for parameter in _head(model).parameters()}}


def _head(model: nn.Module) -> nn.Module:
    head = getattr(model, "classifier", None)
    if not isinstance(head, nn.Module):
        raise RecipeError(f"{type(model).__name__} has no classifier; leave out train.head_lr and train.freeze")
    return head


def _first_layer(model: nn.Module) -> nn.Module:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    first = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if first is None:
        raise RecipeError(f"{type(model).__name__} has no convolution and no linear layer; leave out first_conv_lr")
    return first


def _biases(model: nn.Module) -> list[Tensor]:
    layers = [module for module in model.modules() if "Norm" not in type(module).__name__]
    return [own for layer in layers for name, own in layer.named_parameters(recurse=False) if name == "bias"]
