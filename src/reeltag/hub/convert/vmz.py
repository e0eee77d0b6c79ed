"""VMZ's PyTorch port: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.residual3d import torchvision_resnet

# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: "stem.3.weight" in tensors, partial(torchvision_resnet, form="vmz")),
]


@SOURCES.register("vmz")
def vmz(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert R(2+1)D-34 and -152 of VMZ.

    The keys do not say whether a max-pool follows the stem. The published cost of the 152-layer network is that of the
    one without, which is the default here; the PyTorch port adds a pool: `stem_pool=True`.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no VMZ network known here has keys such as {', '.join(sorted(tensors)[:4])}")
