"""Metrics by name: each takes scores and targets (N, L), numpy or torch, and returns one float."""

from reeltag.registry import Registry

METRICS: Registry[float] = Registry("metric", "reeltag.metrics")

LOWER_IS_BETTER: frozenset[str] = frozenset({"coverage", "ranking_loss", "one_error"})

__all__ = ["LOWER_IS_BETTER", "METRICS"]
