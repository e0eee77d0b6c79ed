"""Metrics by name: each takes scores and targets (N, L), numpy or torch, and returns one float."""

from reeltag.registry import Registry

METRICS: Registry[float] = Registry("metric", "reeltag.metrics")

LOWER_IS_BETTER: frozenset[str] = frozenset({"coverage", "ece", "hamming", "one_error", "ranking_loss"})

__all__ = ["LOWER_IS_BETTER", "METRICS"]
