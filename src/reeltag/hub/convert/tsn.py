"""TSN (yjxiong/tsn-pytorch): names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.frame_networks import base_model_network


@SOURCES.register("tsn")
def tsn(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of TSN: a ResNet or BN-Inception on RGB, flow (10 channels) or differences (15)."""
    return base_model_network(name, tensors)
