"""P3D of qijiezhao: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.residual3d import p3d as convert


@SOURCES.register("p3d")
def p3d(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert P3D-63, -131 or -199, RGB or flow; blocks of one form alone need `forms="A"`.

    Raises:
        StoreError: the keys are not those of P3D.
    """
    if "conv1_custom.weight" not in tensors:
        raise StoreError(f"no P3D network has keys such as {', '.join(sorted(tensors)[:4])}")
    return convert(name, tensors)
