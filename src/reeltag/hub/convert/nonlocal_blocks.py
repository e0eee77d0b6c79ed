"""Non-local blocks on their own, from the four public layouts of their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.renaming import rename

# AlexHex7's names are those of TSM and X-Temporal; MMAction2's have `.conv` inside; a pool makes `g` and `phi`
# sequences.
RULES = [
    (r"^conv_(theta|phi|g)\.", r"\1."),
    (r"^(theta|phi|g|conv_out)\.conv\.", r"\1."),
    (r"^(theta|phi|g)\.0\.conv\.", r"\1."),
    (r"^(phi|g)\.0\.", r"\1."),
    (r"^concat_project\.0\.", "pair."),
    (r"^W\.0\.", "out."),
    (r"^W\.1\.", "norm."),
    (r"^W\.", "out."),
    (r"^conv_out\.bn\.", "norm."),
    (r"^conv_out\.", "out."),
    (r"^bn\.", "norm."),
]


def nonlocal_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one block under the names of `NonLocalBlock`."""
    weights = rename(tensors, RULES)
    if "pair.weight" in weights:
        weights["pair.weight"] = weights["pair.weight"].flatten(1)
    return weights


def nonlocal_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the keys of one block say: channels, inner width, norm, bias, and a pool after the projection.

    A pool before the projection, the scale, and dot product against embedded gaussian leave no trace in the keys.
    """
    weights = nonlocal_weights(tensors)
    inner, channels = weights["g.weight"].shape[:2]
    options: dict[str, Any] = {
        "channels": channels,
        "inner": inner,
        "norm": "norm.weight" in weights,
        "out_bias": "out.bias" in weights,
        "pool": "after" if any(key.startswith("g.0.") for key in tensors) else "none",
    }
    if "theta.weight" not in weights:
        options["pairing"] = "gaussian"
    elif "pair.weight" in weights:
        options["pairing"] = "concatenation"
    return options


def is_block(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether one block is asked for, not a network."""
    return name == "nonlocal_block"


def scaled_block(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert one block of PyTorchVideo or PySlowFast: dot products are scaled where there is a softmax."""
    return Converted(nonlocal_weights(tensors), {**nonlocal_options(tensors), "scale": True})


@SOURCES.register("nonlocal")
def nonlocal_block(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert one block of AlexHex7/Non-local_pytorch: no scale, pool after the projection."""
    return Converted(nonlocal_weights(tensors), nonlocal_options(tensors))
