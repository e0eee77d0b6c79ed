"""Weights of R3D, MC3, R(2+1)D, C3D and P3D under the names of every source that publishes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reeltag.errors import StoreError
from reeltag.hub.convert import Converted
from reeltag.hub.convert.renaming import rename
from reeltag.models.p3d import DEPTHS as P3D_DEPTHS
from reeltag.models.r2plus1d import mid_planes
from reeltag.models.resnet3d import DEPTHS

Rules = list[tuple[str, str]]
_LAYERS: Rules = [(rf"^layer{stage + 1}\.(\d+)\.", rf"stages.{stage}.\1.") for stage in range(4)]
_FC: Rules = [(r"^fc\.", "classifier.")]

# torchvision's names, which VMZ and IG-65M share: a (2+1)D convolution is 0, 1, 3 of a Sequential.
TORCHVISION: Rules = [
    *_LAYERS,
    (r"\.conv(\d)\.0\.0\.", r".conv\1.spatial."),
    (r"\.conv(\d)\.0\.1\.", r".conv\1.bn."),
    (r"\.conv(\d)\.0\.3\.", r".conv\1.temporal."),
    (r"\.conv(\d)\.0\.", r".conv\1."),
    (r"\.conv(\d)\.1\.", r".bn\1."),
    *_FC,
]
_PARTED_STEM: Rules = [
    (r"^stem\.0\.", "stem.conv.spatial."),
    (r"^stem\.1\.", "stem.conv.bn."),
    (r"^stem\.3\.", "stem.conv.temporal."),
    (r"^stem\.4\.", "stem.bn."),
]
_STEM: Rules = [(r"^stem\.0\.", "stem.conv."), (r"^stem\.1\.", "stem.bn.")]
XTEMPORAL: Rules = [
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.bn."),
    *_LAYERS,
    (r"\.spatial_conv\.", ".spatial."),
    (r"\.temporal_conv\.", ".temporal."),
    *_FC,
]
_MMACTION2: Rules = [
    (r"^backbone\.conv1\.conv\.", "stem.conv."),
    (r"^backbone\.conv1\.bn\.", "stem.bn."),
    (r"^backbone\.", ""),
    *_LAYERS,
    (r"\.(conv)(\d)\.bn\.", r".bn\2."),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.conv_s\.", ".spatial."),
    (r"\.bn_s\.", ".bn."),
    (r"\.conv_t\.", ".temporal."),
    (r"^cls_head\.fc_cls\.", "classifier."),
]
_PYTORCHVIDEO: Rules = [
    (r"^blocks\.0\.conv\.", "stem.conv."),
    (r"^blocks\.0\.norm\.", "stem.bn."),
    *((rf"^blocks\.{stage + 1}\.res_blocks\.(\d+)\.", rf"stages.{stage}.\1.") for stage in range(4)),
    (r"\.branch2\.conv_b\.conv_t\.", ".conv2.temporal."),
    (r"\.branch2\.conv_b\.norm\.", ".conv2.bn."),
    (r"\.branch2\.conv_b\.conv_xy\.", ".conv2.spatial."),
    *((rf"\.branch2\.conv_{letter}\.", f".conv{n}.") for n, letter in ((1, "a"), (3, "c"))),
    *((rf"\.branch2\.norm_{letter}\.", f".bn{n}.") for n, letter in enumerate("abc", 1)),
    (r"\.branch1_conv\.", ".downsample.0."),
    (r"\.branch1_norm\.", ".downsample.1."),
    (r"^blocks\.\d+\.proj\.", "classifier."),
]
_BLOCK = re.compile(r"^stages\.(\d+)\.(\d+)\.")


def torchvision_resnet(name: str, tensors: Mapping[str, Tensor], form: str = "torchvision") -> Converted:
    """Convert a network with torchvision's names: r3d_18, mc3_18, r2plus1d_18, and VMZ's and IG-65M's with `form`."""
    parted = "stem.3.weight" in tensors
    weights = rename(tensors, [*(_PARTED_STEM if parted else _STEM), *TORCHVISION])
    return _parted(name, weights, form) if parted else _whole(name, weights, form)


def xtemporal_resnet(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert X-Temporal's resnet3D (R3D) or stresnet (R(2+1)D)."""
    weights = rename(tensors, XTEMPORAL)
    parted = "stem.conv.temporal.weight" in weights
    return _parted(name, weights, "xtemporal") if parted else _whole(name, weights, "xtemporal")


def mmaction2_r2plus1d(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert MMAction2's R(2+1)D, whose shortcuts are parted too."""
    return _parted(name, rename(tensors, _MMACTION2), "mmaction2")


def pytorchvideo_r2plus1d(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert PyTorchVideo's r2plus1d_r50; its hub model ends with softmax, ours with logits."""
    return _parted(name, rename(tensors, _PYTORCHVIDEO), "pytorchvideo")


def _whole(name: str, weights: Mapping[str, Tensor], form: str) -> Converted:
    """Return R3D or MC3: the stages whose kernels see neighbouring frames are counted."""
    _check_family(name, ("r3d", "mc3"), "whole 3D")
    bottleneck = _check_depth(name, weights, DEPTHS)
    kernels = [
        weights.get(f"stages.{stage}.0.conv{2 if bottleneck else 1}.weight", weights["stem.conv.weight"]).shape[2]
        for stage in range(4)
    ]
    options: dict[str, Any] = {"form": form, "in_channels": weights["stem.conv.weight"].shape[1]}
    if name.startswith("r3d"):
        options["stages_3d"] = sum(kernel > 1 for kernel in kernels)
    return Converted(dict(weights), options)


def _parted(name: str, weights: Mapping[str, Tensor], form: str) -> Converted:
    """Return R(2+1)D: the rule for the channels between the halves is the one that the shapes follow."""
    _check_family(name, ("r2plus1d",), "(2+1)D")
    _check_depth(name, weights, DEPTHS)
    stem = weights.get("stem.conv.spatial.weight", weights.get("stem.conv.weight"))
    if stem is None:
        raise StoreError(f"these weights have no stem of a (2+1)D network; check the source and the name {name!r}")
    options: dict[str, Any] = {"form": form, "in_channels": stem.shape[1]}
    rule = _mid_rule(weights)
    if rule:
        options["mid_rule"] = rule
    return Converted(dict(weights), options)


def _mid_rule(weights: Mapping[str, Tensor]) -> str | None:
    """Return the rule of the second convolution of the second stage's first block: there the rules differ."""
    place = "stages.1.0"
    space, time = weights.get(f"{place}.conv2.spatial.weight"), weights.get(f"{place}.conv2.temporal.weight")
    first = weights.get(f"{place}.conv1.weight", weights.get(f"{place}.conv1.spatial.weight"))
    if space is None or time is None or first is None:
        return None
    if space.shape[0] == space.shape[1] == time.shape[0] == time.shape[1]:
        return "same"
    planes = time.shape[0]
    rules = {"conv": mid_planes(space.shape[1], planes), "block": mid_planes(first.shape[1], planes)}
    return next((rule for rule, mid in rules.items() if mid == space.shape[0]), None)


def _check_family(name: str, families: Sequence[str], what: str) -> None:
    if name.split("_")[0] not in families:
        raise StoreError(f"these weights have {what} convolutions: they are for {' or '.join(families)}, not {name!r}")


def _check_depth(name: str, weights: Mapping[str, Tensor], depths: Mapping[int, tuple[int, ...]]) -> bool:
    """Raise StoreError where the blocks are not those of the name's depth; return whether they are bottlenecks."""
    places = {(int(match[1]), int(match[2])) for key in weights if (match := _BLOCK.match(key))}
    blocks = tuple(sum(stage == at for at, _ in places) for stage in range(4))
    bottleneck = "stages.0.0.conv3.weight" in weights
    number = name.rsplit("_", 1)[-1]
    wanted = depths.get(int(number)) if number.isdigit() else None
    deep = int(number) > 34 if wanted else bottleneck
    if wanted is not None and (wanted != blocks or deep != bottleneck):
        known = [depth for depth, each in depths.items() if each == blocks and (depth > 34) == bottleneck]
        kinds = {True: "bottlenecks", False: "basic blocks"}
        raise StoreError(
            f"these weights have {', '.join(map(str, blocks))} {kinds[bottleneck]} a stage"
            f"{f' ({known[0]} layers)' if known else ''}, {name} has {', '.join(map(str, wanted))} {kinds[deep]}"
        )
    return bottleneck


# Our five stages and the convolutions in them, in the order of conv1 to conv5b.
_C3D_CONVS = ((0, 0, "1a?"), (1, 0, "2a?"), *((s, c, f"{s + 1}{'ab'[c]}") for s in (2, 3, 4) for c in (0, 1)))
_C3D: Rules = [
    *((rf"^conv{label}\.(?:conv\.)?", f"stages.{stage}.convs.{index}.") for stage, index, label in _C3D_CONVS),
    (r"^(?:fc8|cls_head\.fc_cls)\.", "classifier."),
]


def c3d(name: str, tensors: Mapping[str, Tensor], **pixels: tuple[float, ...]) -> Converted:
    """Convert C3D under the names of DavideA's port or of MMAction2; `pixels` are its statistics, where they differ."""
    weights = rename(tensors, [(r"^backbone\.", ""), *_C3D])
    first = weights.get("stages.0.convs.0.weight")
    if first is None:
        raise StoreError(f"these weights have no conv1 of C3D; keys begin {', '.join(sorted(tensors)[:4])}")
    return Converted(weights, {"in_channels": first.shape[1], **pixels})


_P3D: Rules = [
    (r"^conv1_custom\.", "conv."),
    (r"^bn1\.", "bn."),
    *_LAYERS,
    (r"\.(?:conv2|conv_normal)\.", ".spatial."),
    (r"\.(?:bn2|bn_normal)\.", ".bn_spatial."),
    (r"\.conv3\.", ".temporal."),
    (r"\.bn3\.", ".bn_temporal."),
    (r"\.conv4\.", ".conv3."),
    (r"\.bn4\.", ".bn3."),
    *_FC,
]


def p3d(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert P3D; the 2D kernels of its last stage get a time axis. The keys do not tell forms A, B and C apart."""
    weights = rename(tensors, _P3D)
    _check_family(name, ("p3d",), "pseudo-3D")
    _check_depth(name, weights, P3D_DEPTHS)
    weights = {key: value.unsqueeze(2) if value.ndim == 4 else value for key, value in weights.items()}
    return Converted(weights, {"in_channels": weights["conv.weight"].shape[1]})
