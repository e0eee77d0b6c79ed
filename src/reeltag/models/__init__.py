"""Models: one architecture a file, registered by the field's names, all with one interface (`models/interface.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reeltag.registry import Registry

if TYPE_CHECKING:
    from reeltag.models.interface import VideoModel

MODELS: Registry[VideoModel] = Registry("model", "reeltag.models")
BACKBONES: Registry[Any] = Registry("backbone", "reeltag.models")


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a shell pattern, sorted; families such as `tsm_<backbone>` are open."""
    return MODELS.matching(pattern)
