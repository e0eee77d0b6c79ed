"""Weights that travel: bundles, run folders as bundles, and published checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reeltag.hub.published import from_published

__all__ = ["from_published"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from reeltag.hub import published

        return getattr(published, name)
    raise AttributeError(f"module 'reeltag.hub' has no attribute {name!r}")
