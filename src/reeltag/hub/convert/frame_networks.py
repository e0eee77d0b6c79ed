"""What the sources of TSN, TSM, TIN and TRN share: a 2D network under `base_model` or `backbone`, and its head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reeltag.hub.convert import Converted
from reeltag.hub.convert.renaming import rename

Rules = list[tuple[str, str]]
_NET = "backbone.net."

# Ours for the parts that mix frames: TIN's wrapper, the non-local blocks of TSM, and TRN's relation networks.
_PARTS: Rules = [
    (r"\.net1\.biasnet\.net\.conv\.", ".interlace.offset_net.conv."),
    (r"\.net1\.biasnet\.net\.fc\.", ".interlace.offset_net.fc1."),
    (r"\.net1\.biasnet\.net\.lastlayer\.", ".interlace.offset_net.fc2."),
    (r"\.net1\.weightnet\.net\.lastlayer\.", ".interlace.weight_net.conv."),
    (r"\.net1\.(offset_net|weight_net)\.", r".interlace.\1."),
    (r"\.net2\.", ".net."),
    (r"\.non_local_block\.", ".nl."),
    (r"\.nl\.(theta|phi|g)\.(?:0\.)?(?:conv\.)?", r".nl.\1."),
    (r"\.nl\.(?:W\.0|conv_out\.conv)\.", ".nl.out."),
    (r"\.nl\.(?:W\.1|conv_out\.bn)\.", ".nl.norm."),
    (r"^consensus\.fc_fusion_scales\.(\d+)\.1\.", r"classifier.hidden.\1."),
    (r"^consensus\.fc_fusion_scales\.(\d+)\.3\.", r"classifier.out.\1."),
    (r"^consensus\.classifier\.1\.", "classifier.hidden.0."),
    (r"^consensus\.classifier\.3\.", "classifier.out.0."),
]
# BN-Inception under the names of its Caffe file.
BNINCEPTION: Rules = [
    (r"(conv\d)_(7x7|3x3)_s2_bn\.", r"\1.bn."),
    (r"(conv\d)_(7x7|3x3)_s2\.", r"\1.conv."),
    (r"conv2_3x3_reduce_bn\.", "conv2_reduce.bn."),
    (r"conv2_3x3_reduce\.", "conv2_reduce.conv."),
    (r"conv2_3x3_bn\.", "conv2.bn."),
    (r"conv2_3x3\.", "conv2.conv."),
    (r"inception_(\d\w)_(\w+?)_bn\.", r"inception_\1.\2.bn."),
    (r"inception_(\d\w)_([a-z0-9_]+)\.", r"inception_\1.\2.conv."),
    (r"(inception_\d\w)\.1x1\.", r"\1.point."),
    (r"(inception_\d\w)\.3x3_reduce\.", r"\1.once.0."),
    (r"(inception_\d\w)\.3x3\.", r"\1.once.1."),
    (r"(inception_\d\w)\.double_3x3_reduce\.", r"\1.twice.0."),
    (r"(inception_\d\w)\.double_3x3_(\d)\.", r"\1.twice.\2."),
    (r"(inception_\d\w)\.pool_proj\.", r"\1.pooled."),
]

_MOBILE_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
# Names of a block's layers in order: convolution, norm, activation, and again; the first block does not expand.
_MOBILE_FIRST = ("conv_dw", "bn1", "", "conv_pw", "bn2")
_MOBILE_REST = ("conv_pw", "bn1", "", "conv_dw", "bn2", "", "conv_pwl", "bn3")


def _mobilenetv2() -> Rules:
    """MobileNetV2 as a flat list of blocks (torchvision's first form) to timm's stages."""
    rules = [
        (r"features\.0\.0\.", "conv_stem."),
        (r"features\.0\.1\.", "bn1."),
        (r"features\.18\.0\.", "conv_head."),
        (r"features\.18\.1\.", "bn2."),
    ]
    places = [(stage, block) for stage, depth in enumerate(_MOBILE_DEPTHS) for block in range(depth)]
    for index, (stage, block) in enumerate(places):
        names = _MOBILE_REST if stage else _MOBILE_FIRST
        for layer, name in enumerate(names):
            rules.append((rf"features\.{index + 1}\.conv\.{layer}\.", f"blocks.{stage}.{block}.{name}."))
    return rules


def _mobilenetv2_of_mmaction2() -> Rules:
    rules = [(r"net\.conv2\.conv\.", "net.conv_head."), (r"net\.conv2\.bn\.", "net.bn2.")]
    rules += [(r"net\.conv1\.conv\.", "net.conv_stem."), (r"net\.conv1\.bn\.", "net.bn1.")]
    for stage in range(len(_MOBILE_DEPTHS)):
        names = _MOBILE_REST if stage else _MOBILE_FIRST
        for pair in range(len(names) // 3 + 1):
            old = rf"layer{stage + 1}\.(\d+)\.conv\.{pair}\."
            rules.append((old + r"conv\.", rf"blocks.{stage}.\1.{names[3 * pair]}."))
            rules.append((old + r"bn\.", rf"blocks.{stage}.\1.{names[3 * pair + 1]}."))
    return rules


def base_model_network(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert a checkpoint whose 2D network lies under `base_model` and whose head is `new_fc` or `consensus`.

    So do those of TSN, TSM, TRN, TIN and X-Temporal. The head may also be the network's own last layer, as it is where
    training had no dropout.
    """
    head = "project." if any(key.startswith("consensus.") for key in tensors) else "classifier."
    rules = [(r"^base_model\.(fc|last_linear)\.|^new_fc\.", head), (r"^base_model\.", _NET), *_PARTS]
    if any("conv1_7x7_s2" in key for key in tensors):
        rules += BNINCEPTION
    if "base_model.features.18.0.weight" in tensors:
        rules += _mobilenetv2()
    return frame_network(name, rename(tensors, rules))


def is_frame_network(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Say whether MMAction2's checkpoint is of a 2D ResNet or MobileNetV2 on frames."""
    stem = tensors.get("backbone.conv1.conv.weight")
    return stem is not None and stem.ndim == 4 and name.split("_")[0] in ("tsn", "tsm", "tin", "trn")


def mmaction2_frame_network(name: str, tensors: Mapping[str, Tensor]) -> Converted:
    """Convert TSN, TSM, TIN or TRN of MMAction2, on a ResNet or on MobileNetV2."""
    head = "project." if any(".consensus." in key for key in tensors) else "classifier."
    rules = [
        (r"^cls_head\.fc_cls\.", head),
        (r"^cls_head\.", ""),
        (r"^backbone\.", _NET),
        *(_mobilenetv2_of_mmaction2() if "backbone.conv2.conv.weight" in tensors else []),
        (r"\.conv(\d)\.bn\.", r".bn\1."),
        (r"\.conv(\d)\.conv\.", r".conv\1."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample\.bn\.", ".downsample.1."),
        *_PARTS,
    ]
    return frame_network(name, rename(tensors, rules))


def frame_network(name: str, weights: dict[str, Tensor]) -> Converted:
    """Return weights under our names with the options, and the model's name, that their keys and shapes tell."""
    options: dict[str, Any] = {}
    stem = next((value for key, value in weights.items() if key.startswith(_NET) and value.ndim == 4), None)
    if stem is not None and stem.shape[1] != 3:
        options["in_channels"] = stem.shape[1]
    hidden = sum(bool(re.fullmatch(r"classifier\.hidden\.\d+\.weight", key)) for key in weights)
    if hidden:
        name = _relations(name, weights, hidden, options)
    elif any(".interlace." in key for key in weights):
        options |= _interlacing(weights)
    elif name.startswith("tsm_"):
        options |= _shifts(weights)
        if any(".nl." in key for key in weights):
            options |= _nonlocal(weights)
            name = f"tsm_nl_{name.removeprefix('tsm_').removeprefix('nl_')}"
    return Converted(weights, options, name)


def interlacing_layer(tensors: Mapping[str, Tensor]) -> Converted:
    """Convert TIN's layer alone; the channels that do not take part are not in it: 4 times as many are assumed."""
    prefix = "layer.net1."
    weights = rename({prefix + key: value for key, value in tensors.items()}, _PARTS)
    weights = {key.removeprefix("layer.interlace."): value for key, value in weights.items()}
    num_frames = weights["offset_net.fc1.weight"].shape[0]
    return Converted(weights, {"channels": 4 * weights["offset_net.conv.weight"].shape[1], "num_frames": num_frames})


def relation_layer(tensors: Mapping[str, Tensor]) -> Converted:
    """Convert TRN's relation module alone, multi-scale or single."""
    weights = rename({f"consensus.{key}": value for key, value in tensors.items()}, _PARTS)
    weights = {key.removeprefix("classifier."): value for key, value in weights.items()}
    scales = sum(key.startswith("hidden.") for key in weights) // 2
    first, last = weights["hidden.0.weight"], weights[f"hidden.{scales - 1}.weight"]
    # The smallest of several scales has 2 frames. Single-scale TRN does not show how many: its published width is 256.
    dim = 256 if "classifier.1.weight" in tensors else last.shape[1] // 2
    labels = weights["out.0.weight"].shape[0]
    sizes = {"dim": dim, "num_frames": first.shape[1] // dim, "num_labels": labels, "hidden": first.shape[0]}
    return Converted(weights, {**sizes, "evaluation": "first"})


def _relations(name: str, weights: Mapping[str, Tensor], scales: int, options: dict[str, Any]) -> str:
    dim = weights["project.weight"].shape[0]
    first = weights["classifier.hidden.0.weight"]
    options |= {"num_frames": first.shape[1] // dim, "project_dim": dim, "hidden": first.shape[0]}
    backbone = name.removeprefix("trn_").removeprefix("single_")
    if scales == 1 and options["num_frames"] > 2:
        return f"trn_single_{backbone}"
    # The published code draws relations in evaluation too. This is one of its draws, the same in every call.
    options["evaluation"] = "first"
    return f"trn_{backbone}"


def _interlacing(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    place = "every_conv" if any(".conv2.interlace." in key for key in weights) else "conv1"
    for key, value in weights.items():
        if key.endswith(".interlace.offset_net.conv.weight"):
            wrapper = key.removesuffix("interlace.offset_net.conv.weight")
            num_frames = weights[f"{wrapper}interlace.offset_net.fc1.weight"].shape[0]
            shift_div = weights[f"{wrapper}net.weight"].shape[1] // value.shape[1]
            return {"num_frames": num_frames, "shift_div": shift_div, "place": place}
    return {}


def _shifts(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tell by the shifted blocks where the shift stands and which blocks of a stage have it."""
    shifted: dict[str, set[int]] = {}
    places = set()
    for key in weights:
        found = re.match(r"backbone\.net\.(.+)\.(\d+)\.(?:block\.)?(net|conv1\.net)\.", key)
        if found:
            shifted.setdefault(found[1], set()).add(int(found[2]))
            places.add("block" if found[3] == "net" else "residual")
    if len(places) != 1:
        return {}
    steps = [min(blocks - {0}) for blocks in shifted.values() if blocks - {0}]
    every = min(steps, default=1)
    return {"place": "block", "shift_every": every} if "block" in places else {"shift_every": every}


def _nonlocal(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tell where the non-local blocks stand; the kinds with a dot product or a scale leave no trace in the keys."""
    places: dict[str, list[int]] = {}
    for key in weights:
        found = re.fullmatch(r"backbone\.net\.(\w+)\.(\d+)\.nl\.g\.weight", key)
        if found:
            places.setdefault(found[1], []).append(int(found[2]))
    pairing = {} if any(".nl.theta." in key for key in weights) else {"pairing": "gaussian"}
    return {"places": places, "out_bias": any(key.endswith(".nl.out.bias") for key in weights), **pairing}
