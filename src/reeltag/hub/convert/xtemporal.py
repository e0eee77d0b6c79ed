"""X-Temporal: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.residual3d import xtemporal_resnet


def _is_resnet3d(name: str, tensors: Mapping[str, Tensor]) -> bool:
    first = tensors.get("conv1.weight")
    return "conv1.spatial_conv.weight" in tensors or (first is not None and first.ndim == 5)


# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (_is_resnet3d, xtemporal_resnet),
]


@SOURCES.register("xtemporal")
def xtemporal(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of X-Temporal.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no X-Temporal network known here has keys such as {', '.join(sorted(tensors)[:4])}")
