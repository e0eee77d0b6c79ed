"""X-Temporal: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.frame_networks import base_model_network
from reeltag.hub.convert.residual3d import xtemporal_resnet
from reeltag.hub.convert.video_resnets import xtemporal_slowfast


def _is_resnet3d(name: str, tensors: Mapping[str, Tensor]) -> bool:
    first = tensors.get("conv1.weight")
    return "conv1.spatial_conv.weight" in tensors or (first is not None and first.ndim == 5)


# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: "lateral_p1.weight" in tensors, xtemporal_slowfast),
    (lambda name, tensors: any(key.startswith("base_model.") for key in tensors), base_model_network),
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
