"""TSM (mit-han-lab/temporal-shift-module): names of its checkpoints to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.frame_networks import base_model_network


@SOURCES.register("tsm")
def tsm(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint of TSM, or of the TSN that it is compared with.

    Place and rule of the shifts are read from the keys. The share of shifted channels is not in them: it is 1/8 each
    way unless `fraction` is given.
    """
    return base_model_network(name, tensors)
