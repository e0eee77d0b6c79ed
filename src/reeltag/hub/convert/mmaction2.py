"""MMAction2: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.frame_networks import is_frame_network, mmaction2_frame_network
from reeltag.hub.convert.residual3d import c3d, mmaction2_r2plus1d
from reeltag.hub.convert.video_resnets import mmaction2_resnet, mmaction2_slowfast

# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: any(key.startswith("backbone.slow_path.") for key in tensors), mmaction2_slowfast),
    (lambda name, tensors: "backbone.conv1.conv.conv_s.weight" in tensors, mmaction2_r2plus1d),
    (lambda name, tensors: "backbone.conv1a.conv.weight" in tensors, c3d),
    (lambda name, tensors: name.startswith(("slow_", "c2d_", "i3d_")), mmaction2_resnet),
    (is_frame_network, mmaction2_frame_network),
]


@SOURCES.register("mmaction2")
def mmaction2(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of MMAction2.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no MMAction2 network known here has keys such as {', '.join(sorted(tensors)[:4])}")
