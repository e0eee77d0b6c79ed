"""Tagging on many machines (home of ray): `reeltag tag --engine ray`, see docs/scale.md."""

from __future__ import annotations

from importlib.util import find_spec

from reeltag.errors import ReeltagError


def require_extra() -> None:
    """Raise ReeltagError where ray is not installed."""
    if find_spec("ray") is None:
        raise ReeltagError("--engine ray needs ray, not installed here: pip install 'reeltag[scale]'")
