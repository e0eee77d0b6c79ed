"""torchvision's video models: names of their weights to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.residual3d import torchvision_resnet
from reeltag.hub.convert.torchvision_adapters import is_adapter, torchvision_adapter

# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (is_adapter, torchvision_adapter),
    (lambda name, tensors: "stem.0.weight" in tensors and "layer1.0.conv1.1.weight" in tensors, torchvision_resnet),
]


@SOURCES.register("torchvision")
def torchvision(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert weights of torchvision: r3d_18, mc3_18, r2plus1d_18, and other depths of the same classes.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no torchvision network known here has keys such as {', '.join(sorted(tensors)[:4])}")
