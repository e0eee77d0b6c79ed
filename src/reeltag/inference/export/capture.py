"""Making a graph of a network by torch.export, with every axis free that the network leaves free."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.export import Dim, ExportedProgram

from reeltag.errors import ReeltagError
from reeltag.inference.export.network import Input, PortableNetwork, draw

_EXAMPLE_BATCH = 2  # torch.export takes sizes of 0 and 1 for constants


def capture(network: PortableNetwork, inputs: Sequence[Input]) -> tuple[ExportedProgram, list[Input]]:
    """Return the graph of a network, and its inputs with the axes that the graph leaves free.

    The batch is always free. Of the other axes, torch.export fixes those on which the program's course depends, such as
    the frames of a network that has weights for each.

    Args:
        network: in evaluation mode, on the CPU.
        inputs: the axes that may vary, by name.

    Raises:
        ReeltagError: no graph can be made, or not one of any batch size; the reason is torch's.
    """
    free = tuple(
        {0: Dim.DYNAMIC, **{number + 1: Dim.AUTO for number, axis in enumerate(each.axes) if axis}} for each in inputs
    )
    try:
        with warnings.catch_warnings():
            # torch.nn.LSTM lists its weights a second time while it is traced; the program is right.
            warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights", UserWarning)
            # After a first ONNX file with one, torch traces LSTMs as loops, through a function it is about to drop.
            warnings.filterwarnings("ignore", ".*_check_is_size", FutureWarning)
            program = torch.export.export(network, draw(inputs, _EXAMPLE_BATCH), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # torch documents no common class of them
        raise ReeltagError(
            f"torch.export makes no graph of {type(network.model).__name__}: {reason_of(error)}; serve this model with "
            "reeltag itself (`reeltag.Tagger`), or train another one of the same kind"
        ) from error
    return program, _named(program, inputs)


def _named(program: ExportedProgram, inputs: Sequence[Input]) -> list[Input]:
    """Return the inputs as the graph has them: what it fixed is fixed, and what is one symbol has one name."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    shapes = [nodes[name].meta["val"].shape for name in program.graph_signature.user_inputs if isinstance(name, str)]
    names: dict[str, set[str]] = {}
    for each, shape in zip(inputs, shapes, strict=True):
        for axis, size in zip(each.axes, shape[1:], strict=True):
            if axis and isinstance(size, torch.SymInt):
                names.setdefault(str(size), set()).add(axis)
    one = {symbol: min(axes) if len(axes) == 1 else min(axes).split("_")[-1] for symbol, axes in names.items()}
    return [
        replace(
            each,
            axes=tuple(one.get(str(size)) if axis else None for axis, size in zip(each.axes, shape[1:], strict=True)),
        )
        for each, shape in zip(inputs, shapes, strict=True)
    ]


def reason_of(error: BaseException) -> str:
    """Return the first line of the first cause of an error, which is what a person can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
