"""An ONNX file (home of onnx, onnxscript and onnxruntime): converted from a graph, written with its facts, run."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from reeltag.errors import ReeltagError
from reeltag.inference.export.capture import reason_of
from reeltag.inference.export.facts import KEY
from reeltag.inference.export.network import OUTPUTS, Input

MAX_BYTES = (2 << 30) - (64 << 20)  # a protocol buffer holds 2 GiB; what is not weights is far below 64 MiB
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise ReeltagError when a library is missing."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ReeltagError(
            f"--format onnx needs {' and '.join(missing)}, which is missing: pip install 'reeltag[export]'; "
            "--format pt2 needs nothing more"
        )


def write_onnx(
    program: ExportedProgram,
    inputs: Sequence[Input],
    facts: dict[str, Any],
    folder: Path,
    name: str,
    *,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write `folder/name`, and `folder/name.data` beside it when the weights do not fit into one file.

    Args:
        program: the graph.
        inputs: their names and axes.
        facts: written as JSON under the metadata key `reeltag`.
        folder: where to write.
        name: of the file.
        max_bytes: of weights that lie in the file itself.

    Raises:
        ReeltagError: ONNX has no form of an operator; the message names it.
    """
    axes = tuple({number: axis for number, axis in enumerate(each.shape) if isinstance(axis, str)} for each in inputs)
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[each.name for each in inputs],
                output_names=list(OUTPUTS),
                dynamic_shapes=(axes,),
            )
    except Exception as error:  # of several classes, most of them private
        raise ReeltagError(
            f"{facts['model']} has no form in ONNX: {_operator_in(error)}; use --format pt2, which keeps every operator"
        ) from error
    if converted is None:
        raise ReeltagError(f"torch.onnx made nothing of {facts['model']}; use --format pt2")
    converted.model.metadata_props[KEY] = json.dumps(facts, ensure_ascii=False)
    weights = sum(each.numel() * each.element_size() for each in program.state_dict.values())
    converted.save(folder / name, external_data=weights > max_bytes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's remarks on its own code from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _operator_in(error: BaseException) -> str:
    """Return the operator that an error of the converter is about, or its reason."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__
    found = re.search(r"torch\.ops\.([\w.]+)|op='([\w.:]+)'", " ".join(chain))
    return f"the operator {found[1] or found[2]} cannot be converted" if found else reason_of(error)


class OnnxFile:
    """An open ONNX file, run by onnxruntime on the CPU with as many threads as torch uses.

    Args:
        path: the file; its `.data`, if it has one, lies beside it.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.facts: dict[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map[KEY])
        self._names = [each["name"] for each in self.facts["inputs"]]

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, L) and logits (B, L)."""
        given = {name: each.numpy() for name, each in zip(self._names, inputs, strict=True)}
        found = self._session.run(list(OUTPUTS), given)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
