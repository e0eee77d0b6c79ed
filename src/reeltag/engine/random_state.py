"""The state of every global random generator that training draws from, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's generators: `cpu`, and `cuda<i>` for each GPU."""
    state = {"cpu": torch.get_rng_state()}
    for index in range(torch.cuda.device_count()):
        state[f"cuda{index}"] = torch.cuda.get_rng_state(index)
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Put back what `random_state` returned; a GPU that is not here is passed over."""
    torch.set_rng_state(state["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda{index}" in state:
            torch.cuda.set_rng_state(state[f"cuda{index}"], index)
