"""torchvision's S3D, MViT and Video Swin: their own names under `net`, the classifier under ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from reeltag.hub.convert import Converted
from reeltag.hub.convert.renaming import as_linear, rename

_CLASSIFIERS = {"s3d": r"^classifier\.1\.", "mvit": r"^head\.1\.", "swin": r"^head\."}


def is_adapter(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether our name is that of an adapted network of torchvision."""
    return name.startswith(tuple(_CLASSIFIERS))


def torchvision_adapter(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert weights of an adapted network."""
    head = next(pattern for prefix, pattern in _CLASSIFIERS.items() if name.startswith(prefix))
    weights = rename(tensors, [(r"^", "net."), (head.replace("^", r"^net\."), "classifier.")])
    return Converted(as_linear(weights, "classifier"))


def is_inception_v1(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether our name and the keys are those of Inception-v1, torchvision's GoogLeNet."""
    return name.endswith("inception_v1") and "inception3a.branch1.conv.weight" in tensors


def torchvision_inception_v1(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert GoogLeNet, its auxiliary classifiers left out, to TSN on Inception-v1."""
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("aux")}
    rules = [(r"^fc\.", "classifier."), (r"^(?!classifier\.)", "backbone.net.layers.")]
    return Converted(rename(kept, rules), {"in_channels": tensors["conv1.conv.weight"].shape[1]}, "inception_v1")
