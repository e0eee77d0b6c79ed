"""Trying an exported file against its network: on batches, and at other sizes along every axis that is left free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from reeltag.errors import ReeltagError
from reeltag.inference.export.capture import reason_of
from reeltag.inference.export.network import Input, PortableNetwork, draw

# Of logits, as a share of their deviation: another order of sums in fp32 stays a hundred times below it.
TOLERANCE = 1e-4


class ExportedFile(Protocol):
    """An open file of either format."""

    facts: dict[str, Any]

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, L) and logits (B, L) of the inputs in the order of `facts["inputs"]`."""
        ...


def compare_batches(network: PortableNetwork, opened: ExportedFile, inputs: Sequence[Input]) -> float:
    """Return the largest difference at batches of 1 and 3; ReeltagError when it is beyond `TOLERANCE`."""
    worst = 0.0
    for batch_size in (1, 3):
        values = draw(inputs, batch_size)
        try:
            found = difference(network, opened, values)
        except Exception as error:  # whatever the runtime raises
            raise ReeltagError(
                f"the exported file does not run on a batch of {batch_size}: {reason_of(error)}; nothing was written. "
                "Try the other --format"
            ) from error
        if not found <= TOLERANCE:
            raise ReeltagError(
                f"the exported file differs from the model by {found:.2g} of the logits' deviation on a batch of "
                f"{batch_size}, and at most {TOLERANCE:g} is rounding; nothing was written. Try the other --format"
            )
        worst = max(worst, found)
    return worst


def wrong_axes(network: PortableNetwork, opened: ExportedFile, inputs: Sequence[Input]) -> set[str]:
    """Return the free axes along which the file differs from the network, or the network takes no other size."""
    sizes = {axis: size for each in inputs for axis, size in zip(each.axes, each.sizes, strict=True) if axis}
    wrong: set[str] = set()
    for axis, size in sizes.items():
        held: list[bool] = []
        for other in _other_sizes(axis, size):
            values = draw(inputs, 1, {axis: other})
            try:
                with torch.inference_mode():
                    network(*values)
            except (ValueError, RuntimeError):  # a size that the network itself refuses
                continue
            try:
                held.append(difference(network, opened, values) <= TOLERANCE)
            except Exception:  # whatever the runtime raises at a size that its graph does not hold for
                held.append(False)
        if not held or not all(held):
            wrong.add(axis)
    return wrong


def _other_sizes(axis: str, size: int) -> tuple[int, ...]:
    if axis.endswith("samples"):
        return (size + size // 8 + 5,)
    return (2 * size, size + 1) if axis.endswith("frames") else (size + 32, size + 7)


def difference(network: PortableNetwork, opened: ExportedFile, values: Sequence[Tensor]) -> float:
    """Return the largest difference of a logit, as a share of the logits' deviation."""
    with torch.inference_mode():
        _, expected = network(*values)
    _, found = opened(values)
    scale = max(float(expected.std(correction=0)), 1e-2 * float(expected.abs().max()), 1e-12)
    return float((found - expected).abs().max()) / scale
