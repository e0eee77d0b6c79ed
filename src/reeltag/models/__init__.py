"""Models: one architecture a file, registered by the field's names, all with one interface (`models/interface.py`)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from reeltag.registry import Registry

if TYPE_CHECKING:
    from reeltag.models.interface import VideoModel

MODELS: Registry[VideoModel] = Registry("model", "reeltag.models")
BACKBONES: Registry[Any] = Registry("backbone", "reeltag.models")


# The image networks of the five documents and the usual small ones, by which open families are listed.
KNOWN_BACKBONES = (
    *("mini", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet269", "resnext101", "se_resnet152"),
    *("senet154", "dpn107", "inception_v3", "inception_v4", "inception_resnet_v2", "bninception", "polynet"),
)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a shell pattern, sorted.

    Open families, `tsm_<backbone>` for example, take any timm network; only the best-known members are listed.
    """
    names = set(MODELS)
    for prefix, (key, _) in MODELS.families.items():
        if key == "backbone":
            names |= {prefix + backbone for backbone in KNOWN_BACKBONES}
    return sorted(name for name in names if fnmatchcase(name, pattern))
