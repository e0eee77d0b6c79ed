"""Losses by name: each takes logits and targets (B, L) and returns one scalar."""

from torch import Tensor

from reeltag.registry import Registry

LOSSES: Registry[Tensor] = Registry("loss", "reeltag.losses")

__all__ = ["LOSSES"]
