"""Losses by name: each takes logits and targets (B, L) and returns one scalar."""

from torch import Tensor

from reeltag.registry import Registry

LOSSES: Registry[Tensor] = Registry("loss", "reeltag.losses")

# Options that are tensors or generators: given by code, never by a recipe.
NOT_IN_RECIPES: frozenset[str] = frozenset({"generator", "ignore", "pos_weight", "scores", "weight"})

# Losses of real-valued targets in [0, 1]. The others ask only whether a target is above 1/2, or make pairs of present
# and absent labels, so a clip that is half of a label would be learned as all of it or none.
SOFT_TARGETS: frozenset[str] = frozenset(
    {"asymmetric", "bce", "cross_entropy", "focal", "hinge", "kl", "partial_bce", "single_positive", "softmax"}
)

__all__ = ["LOSSES", "NOT_IN_RECIPES", "SOFT_TARGETS"]
