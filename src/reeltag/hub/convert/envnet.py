"""EnvNet and EnvNet-v2 as ported by arrrrrmin/esc-learner."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import SOURCES, Converted
from reeltag.hub.convert.renaming import rename

# Published numbers of layers to the places in our sequences: convolutions, with pools between them.
_PLACES = {
    "envnet": {"conv3": 0, "conv4": 2},
    "envnet_v2": {"conv3": 0, "conv4": 1, "conv5": 3, "conv6": 4, "conv7": 6, "conv8": 7, "conv9": 9, "conv10": 10},
}


@SOURCES.register("envnet")
def envnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert EnvNet (fc5-fc7) or EnvNet-v2 (fc11-fc13); batch norm's epsilon is the port's, 1e-5."""
    name = "envnet_v2" if any("fc13" in key for key in tensors) else "envnet"
    rules = [
        (r"^.*?(feature_conv|classifier)\.", r"\1."),
        (r"^feature_conv\.conv1\.module", "along_time.0"),
        (r"^feature_conv\.conv2\.module", "along_time.1"),
        *((rf"^classifier\.{conv}\.module", f"on_picture.{place}") for conv, place in _PLACES[name].items()),
        (r"^classifier\.fc(5|11)\.module\.0", "hidden.0"),
        (r"^classifier\.fc(6|12)\.module\.0", "hidden.3"),
        (r"^classifier\.fc(7|13)\.", "classifier."),
    ]
    return Converted(rename(tensors, rules), {"bn_eps": 1e-5}, name)
