"""DavideA's port of C3D: names of its checkpoint to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.residual3d import c3d as convert


@SOURCES.register("c3d")
def c3d(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert C3D trained on Sports-1M (487 labels). Its forward ends with softmax, ours with logits.

    Its example feeds pixels 0..255 as they are, so nothing is subtracted here.

    Raises:
        StoreError: the keys are not those of C3D.
    """
    return convert(name, tensors, pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1 / 255, 1 / 255, 1 / 255))
