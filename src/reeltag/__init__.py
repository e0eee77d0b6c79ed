"""reeltag: multi-label video tagging from RGB, optical flow and sound."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reeltag import data, hub, layers, losses, media, metrics, models
    from reeltag.build import create_model
    from reeltag.inference.ensemble_tagger import EnsembleTagger
    from reeltag.inference.export.exporting import export
    from reeltag.inference.predict import Tagger
    from reeltag.models import list_models
    from reeltag.schema import Tags

__version__ = "0.1.0"
__all__ = [
    "EnsembleTagger",
    "Tagger",
    "Tags",
    "create_model",
    "data",
    "export",
    "hub",
    "layers",
    "list_models",
    "losses",
    "media",
    "metrics",
    "models",
]

_HOMES = {
    "EnsembleTagger": "reeltag.inference.ensemble_tagger",
    "Tagger": "reeltag.inference.predict",
    "Tags": "reeltag.schema",
    "create_model": "reeltag.build",
    "export": "reeltag.inference.export.exporting",
    "list_models": "reeltag.models",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that `import reeltag` costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"reeltag.{name}")
    raise AttributeError(f"module 'reeltag' has no attribute {name!r}")
