"""TRN (zhoubolei/TRN-pytorch): names of its checkpoints, and of its relation modules alone, to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.frame_networks import base_model_network, relation_layer


@SOURCES.register("trn")
def trn(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of TRN, multi-scale or single: the keys tell which, and the number of frames.

    The published code draws other relations at every call, in evaluation too; converted models take the first three of
    each scale (`evaluation="first"`), one of those draws. `evaluation="mean"` is the exact expectation over draws.
    """
    if name == "temporal_relation":
        return relation_layer(tensors)
    return base_model_network(name, tensors)
