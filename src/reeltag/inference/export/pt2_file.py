"""A torch.export archive: written with its facts, read back and run by torch alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from reeltag.inference.export.facts import EXTRA_FILE


def write_pt2(program: ExportedProgram, facts: dict[str, Any], folder: Path, name: str) -> None:
    """Write `folder/name`, with the facts as the extra file `reeltag.json`."""
    program.example_inputs = None  # a drawn batch of clips is of no use to anybody
    with warnings.catch_warnings():
        # Weights in channels_last order are no complete tensors to it; what is written is read back and compared.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        torch.export.save(program, folder / name, extra_files={EXTRA_FILE: json.dumps(facts, ensure_ascii=False)})


class Pt2File:
    """An open archive.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        extra = {EXTRA_FILE: ""}
        self._run = torch.export.load(path, extra_files=extra).module()
        self.facts: dict[str, Any] = json.loads(extra[EXTRA_FILE])

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, L) and logits (B, L)."""
        with torch.inference_mode():
            found: tuple[Tensor, Tensor] = self._run(*inputs)
        return found
