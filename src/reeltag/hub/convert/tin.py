"""TIN (deepcs233/TIN): names of its checkpoints, and of its interlacing layer alone, to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.frame_networks import base_model_network, interlacing_layer


@SOURCES.register("tin")
def tin(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of TIN; `num_frames` and `shift_div` are read from its shapes."""
    if name == "temporal_interlace":
        return interlacing_layer(tensors)
    return base_model_network(name, tensors)
