"""What the keys and shapes of a bottleneck video network say about it, once they bear our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert.nonlocal_blocks import nonlocal_options, nonlocal_weights
from reeltag.models.bottleneck3d import DEPTHS
from reeltag.models.video_resnet import FORMS

_BLOCK = re.compile(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight$")
_NONLOCAL = re.compile(r"(?:^|\.)stages\.(\d+)\.nonlocals\.(\d+)\.")


def block_kernels(weights: Mapping[str, Tensor], prefix: str = "") -> list[list[int]]:
    """Return the temporal kernel of each block, one list a stage, of the path whose keys start with `prefix`."""
    kernels: dict[tuple[int, int], int] = {}
    for key, value in weights.items():
        match = _BLOCK.search(key)
        if match and key.startswith(prefix):
            kernels[int(match[1]), int(match[2])] = value.shape[2]
    stages = sorted({stage for stage, _ in kernels})
    return [[size for (at, _), size in sorted(kernels.items()) if at == stage] for stage in stages]


def nonlocal_blocks(weights: Mapping[str, Tensor], prefix: str = "") -> list[list[int]]:
    """Return the blocks of each stage behind which a non-local layer stands, of the path of `prefix`."""
    places = {
        (int(match[1]), int(match[2])) for key in weights if key.startswith(prefix) and (match := _NONLOCAL.search(key))
    }
    last = max((stage for stage, _ in places), default=-1)
    return [sorted(block for at, block in places if at == stage) for stage in range(last + 1)]


def nonlocal_renamed(
    weights: Mapping[str, Tensor], source: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights with non-local layers under our names, and `nonlocal_options` where there are such layers.

    Args:
        weights: under our names but inside those layers.
        source: what the keys do not say: pairing, scale, a pool before the projection.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        match = _NONLOCAL.search(key)
        if match is None:
            renamed[key] = value
        else:
            layers.setdefault(key[: match.end()], {})[key[match.end() :]] = value
    for place, tensors in layers.items():
        renamed |= {place + key: value for key, value in nonlocal_weights(tensors).items()}
    if not layers:
        return renamed, {}
    options = nonlocal_options(next(iter(layers.values())))
    del options["channels"]
    inner = {tensors[key].shape[:2] for tensors in layers.values() for key in tensors if _is_value(key)}
    if all(2 * width == channels for width, channels in inner):
        del options["inner"]  # half of the channels, the layer's own rule
    return renamed, {"nonlocal_options": {**options, **source}}


def _is_value(key: str) -> bool:
    return re.fullmatch(r"(conv_)?g\.(0\.)?(conv\.)?weight", key) is not None


def resnet_options(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of `models/video_resnet.py` that the weights reveal.

    Raises:
        StoreError: there is no stem, or the weights belong to another form or depth than `name` says.
    """
    stem, kernels = _stem(weights, "stem.conv.weight"), block_kernels(weights)
    _same_network(name, stem.shape[2], kernels)
    options: dict[str, Any] = {
        "kernels": kernels,
        "stem_kernel": stem.shape[2],
        "width": stem.shape[0],
        "in_channels": stem.shape[1],
    }
    if places := nonlocal_blocks(weights):
        options["nonlocal_blocks"] = places
    return options


def slowfast_options(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of `models/slowfast.py` that the weights reveal: all but alpha and the choice of slow frames.

    Raises:
        StoreError: a path or the laterals are missing, or the weights have another depth than `name` says.
    """
    slow, fast = _stem(weights, "slow.stem.conv.weight"), _stem(weights, "fast.stem.conv.weight")
    lateral = _stem(weights, "laterals.0.conv.weight")
    kernels = block_kernels(weights, "slow.")
    _same_depth(name, kernels)
    options: dict[str, Any] = {
        "slow_kernels": kernels,
        "fast_kernels": block_kernels(weights, "fast."),
        "width": slow.shape[0],
        "beta": fast.shape[0] / slow.shape[0],
        "in_channels": slow.shape[1],
        "lateral_kernel": lateral.shape[2],
        "lateral_norm": "laterals.0.bn.weight" in weights,
        "head_bias": "classifier.bias" in weights,
    }
    if places := nonlocal_blocks(weights, "slow."):
        options["nonlocal_blocks"] = places
    return options


def _stem(weights: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in weights or weights[key].ndim != 5:
        raise StoreError(
            f"these weights have no {key} after renaming; its keys begin {', '.join(sorted(weights)[:4])}. Check the "
            "source and the model's name"
        )
    return weights[key]


def _same_depth(name: str, kernels: list[list[int]]) -> None:
    asked = re.search(r"_r(\d+)", name)
    depths = tuple(map(len, kernels))
    if asked and int(asked[1]) in DEPTHS and DEPTHS[int(asked[1])] != depths:
        known = [f"r{depth}" for depth, blocks in DEPTHS.items() if blocks == depths]
        raise StoreError(
            f"the weights have {', '.join(map(str, depths))} blocks a stage"
            f"{f' ({known[0]})' if known else ''}, {name} has {', '.join(map(str, DEPTHS[int(asked[1])]))}"
        )


def _same_network(name: str, stem: int, kernels: list[list[int]]) -> None:
    """Raise StoreError where the kernels are exactly those of another of our forms than the name's."""
    _same_depth(name, kernels)
    depth = next((depth for depth, blocks in DEPTHS.items() if blocks == tuple(map(len, kernels))), None)
    asked = name.split("_")[0]
    if depth is None or asked not in FORMS:
        return
    found = [form for form, plan in FORMS.items() if plan.stem == stem and plan.kernels(depth) == kernels]
    if found and asked not in found:
        raise StoreError(f"the temporal kernels of these weights are those of {found[0]}_r{depth}, not of {name}")
