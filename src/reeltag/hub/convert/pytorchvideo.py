"""PyTorchVideo's hub: names of its weights to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.nonlocal_blocks import is_block, scaled_block
from reeltag.hub.convert.residual3d import pytorchvideo_r2plus1d
from reeltag.hub.convert.video_resnets import pytorchvideo_resnet, pytorchvideo_slowfast

# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (is_block, scaled_block),
    (lambda name, tensors: any(".multipathway_blocks." in key for key in tensors), pytorchvideo_slowfast),
    (lambda name, tensors: any(".conv_b.conv_t." in key for key in tensors), pytorchvideo_r2plus1d),
    (lambda name, tensors: any(".res_blocks." in key for key in tensors), pytorchvideo_resnet),
]


@SOURCES.register("pytorchvideo")
def pytorchvideo(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of PyTorchVideo's hub.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no PyTorchVideo network known here has keys such as {', '.join(sorted(tensors)[:4])}")
