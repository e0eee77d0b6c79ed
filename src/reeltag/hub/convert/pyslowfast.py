"""PySlowFast: names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted, Source
from reeltag.hub.convert.video_resnets import pyslowfast_resnet, pyslowfast_slowfast

# What a checkpoint looks like, and what converts it; the first that holds is taken.
FAMILIES: list[tuple[Callable[[str, Mapping[str, Tensor]], bool], Source]] = [
    (lambda name, tensors: "s1.pathway1_stem.conv.weight" in tensors, pyslowfast_slowfast),
    (lambda name, tensors: "s1.pathway0_stem.conv.weight" in tensors, pyslowfast_resnet),
]


@SOURCES.register("pyslowfast")
def pyslowfast(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of PySlowFast (.pyth). In evaluation its heads end in a softmax; ours give logits.

    Raises:
        StoreError: the keys are of no network known here.
    """
    for fits, convert in FAMILIES:
        if fits(name, tensors):
            return convert(name, tensors)
    raise StoreError(f"no PySlowFast network known here has keys such as {', '.join(sorted(tensors)[:4])}")
