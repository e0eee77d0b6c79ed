"""M3 to M34-res as published in Keras by philipperemy/very-deep-convnets-raw-waveforms: layers numbered in order."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted
from reeltag.models import MODELS

_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


@SOURCES.register("m34")
def m34(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert `<model>/<number>_<layer>/<variable>`: the n-th layer with weights is our n-th."""
    with torch.device("meta"):
        model = MODELS.build(name, num_labels=1)
    ours = [n for n, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.BatchNorm1d | nn.Linear)]
    weights = {}
    for key, tensor in tensors.items():
        found = re.search(r"(\d+)_(\w+)/(\w+)(?::0)?$", key)
        if not found or int(found[1]) >= len(ours):
            raise StoreError(f"{key!r} names no layer of {name}, which has {len(ours)} layers with weights")
        number, variable = int(found[1]), found[3]
        if variable == "kernel":  # (k, in, out) or (in, out)
            variable, tensor = "weight", tensor.movedim((-1, -2), (0, 1)) if tensor.ndim == 3 else tensor.T
        weights[f"{ours[number]}.{_NAMES.get(variable, variable)}"] = tensor.contiguous()
    return Converted(weights)
