"""Checkpoints as they are found: wrapped, prefixed, and renamed by ordered rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reeltag.errors import StoreError

# Keys under which training code of the field puts the weights.
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "net", "params")
_COUNTER = "num_batches_tracked"


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, out of its wrapper and without the `module.` of data-parallel training.

    Raises:
        StoreError: there are no tensors where they are looked for.
    """
    found: Mapping[str, Any] = checkpoint
    for _ in range(3):  # a wrapper within a wrapper has been seen
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise StoreError(
            f"no tensors in this checkpoint; its keys are {', '.join(map(str, list(found)[:5]))}. Give a state "
            f"dict, or a file that holds one under {', '.join(_WRAPPERS[:3])}"
        )
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def rename(tensors: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    r"""Return the tensors under new names: every rule (pattern, replacement) is applied in order to every key.

    Batch counters are left out: old checkpoints lack them, and nothing here reads them.

    Args:
        tensors: published name to tensor.
        rules: for example `(r"^base_model\.", "backbone.net.")`; replacements may use groups.

    Raises:
        StoreError: two keys end at one name.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.endswith(_COUNTER):
            continue
        name = key
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        if name in renamed:
            raise StoreError(f"two keys of the checkpoint mean {name!r}, the second is {key!r}: it mixes two layouts")
        renamed[name] = tensor
    return renamed


def as_linear(weights: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """Return the weights with the 1x1(x1) convolutions called `names` as the linear layers that they are."""
    flat = {f"{name}.weight" for name in names}
    return {key: value.flatten(1) if key in flat else value for key, value in weights.items()}
