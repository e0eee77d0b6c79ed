"""Gradient checkpointing of one block at a time, with batch norm's running statistics updated once, not twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    """Keep the running statistics of a block's batch norms as they are, while it is computed a second time."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_held(block)


def _recomputed(block: nn.Module, *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(block).forward(block, *args)
    return checkpoint(
        partial(type(block).forward, block), *args, use_reentrant=False, context_fn=partial(_contexts, block)
    )


def checkpoint_block(block: nn.Module, enabled: bool) -> None:
    """Let a block be recomputed in the backward pass, or undo that.

    The second pass runs with batch-norm momentum zero: it normalises by the batch's own statistics, as the first did,
    and leaves the running ones alone.
    """
    if enabled:
        block.forward = partial(_recomputed, block)
    else:
        block.__dict__.pop("forward", None)
