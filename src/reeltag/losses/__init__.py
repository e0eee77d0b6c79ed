"""Losses by name: each takes logits and targets (B, L) and returns one scalar."""

from torch import Tensor

from reeltag.registry import Registry

LOSSES: Registry[Tensor] = Registry("loss", "reeltag.losses")

# Options that are tensors or generators: given by code, never by a recipe.
NOT_IN_RECIPES: frozenset[str] = frozenset({"generator", "ignore", "pos_weight", "scores", "weight"})

__all__ = ["LOSSES", "NOT_IN_RECIPES"]
