"""Weights that travel: bundles, run folders as bundles, and published checkpoints."""
