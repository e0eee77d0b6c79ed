"""IG-65M R(2+1)D of moabitcoin: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.residual3d import torchvision_resnet


@SOURCES.register("ig65m")
def ig65m(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert r2plus1d_34 with 8 or 32 frames and the labels of IG-65M (487, 359) or Kinetics (400): one network.

    Raises:
        StoreError: the keys are not those of this network.
    """
    if "stem.3.weight" not in tensors:
        raise StoreError(f"no IG-65M network has keys such as {', '.join(sorted(tensors)[:4])}")
    return torchvision_resnet(name, tensors, form="vmz")
