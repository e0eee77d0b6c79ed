"""Video classifiers as the transformers library saves them: its own names under `net`, the classifier under ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.renaming import rename
from reeltag.models.adapters.transformers import in_library_names

_HEAD_WIDTH = 64  # of the published base and large models; the keys do not say
_HIDDEN = re.compile(r"\.layers?\.0\.(intermediate\.dense|mlp\.fc1)\.weight$")


@SOURCES.register("transformers")
def transformers(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a state dict of one of the library's video classifiers, of this version of it or an earlier one.

    Width, depth, patches and pooling are read from the shapes. The number of heads leaves no trace in them: it is taken
    as the width over 64, of at least one. Nor do frames and pixels, but for TimeSformer's frames: the published sizes
    unless the caller says `num_frames` and `size_px`.
    """
    kind = name.removeprefix("hf_")
    if "classifier.weight" not in tensors:
        raise StoreError(f"no classifier.weight in these weights; {name} takes those of a whole video classifier")
    config = _config(kind, tensors)
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("vjepa2.predictor.")}
    weights = in_library_names(kind, config, kept)
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith("vjepa2.predictor.")}
    return Converted(rename(weights, [(r"^(?!classifier\.)", "net.")]), {"config": config})


def _config(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width = tensors["classifier.weight"].shape[1]
    layers = [
        int(found[1]) for key in tensors if (found := re.search(rf"^{kind}\.(?:encoder\.)?layers?\.(\d+)\.", key))
    ]
    hidden = next((tensor.shape[0] for key, tensor in tensors.items() if _HIDDEN.search(key)), 4 * width)
    patch = next((tensor for key, tensor in tensors.items() if "patch_embeddings" in key and tensor.ndim >= 4), None)
    config: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": max(layers, default=0) + 1,
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
    }
    if kind == "vjepa2":
        poolers = {key.split(".")[2] for key in tensors if key.startswith("pooler.self_attention_layers.")}
        return {**config, "mlp_ratio": hidden / width, "num_pooler_layers": len(poolers)}
    config["intermediate_size"] = hidden
    if kind == "videomae":
        config["use_mean_pooling"] = "fc_norm.weight" in tensors
    if patch is not None and kind == "vivit":
        config["tubelet_size"] = list(patch.shape[2:])
    elif patch is not None:
        config["patch_size"] = patch.shape[-1]
    if "timesformer.embeddings.time_embeddings" in tensors:
        config["num_frames"] = tensors["timesformer.embeddings.time_embeddings"].shape[1]
    return config
