"""TSM with non-local blocks: neighbouring frames by the shift, all places of the clip by five blocks of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from reeltag.layers.nonlocal_block import AfterBlock, NonLocalBlock, Pairing, PoolPlace
from reeltag.layers.temporal_shift import ClipLength
from reeltag.models import MODELS
from reeltag.models.image2d import build_backbone
from reeltag.models.interface import VideoModel
from reeltag.models.tsn import Consensus, TemporalSegmentNetwork, insert_temporal_shift

Places = Mapping[str, Sequence[int]]
# How many non-local blocks each stage has; other layouts than a ResNet's have their blocks in one list.
_COUNTS = {"layer2": 2, "layer3": 3}
_COUNTS_OF_OTHERS = {"blocks": 2}


def insert_nonlocal_2d(net: nn.Module, clip: ClipLength, places: Places, **options: Any) -> int:
    """Put a non-local block after given blocks of a 2D network; returns how many.

    Args:
        net: the network, changed in place; its stages are attributes that hold blocks in order.
        clip: where the frames per clip stand.
        places: stage name to the numbers of its blocks, from 0.
        **options: of `NonLocalBlock`.

    Raises:
        ValueError: the network has no such stage or block.
    """
    inserted = 0
    for stage_name, numbers in places.items():
        stage = getattr(net, stage_name, None)
        if not isinstance(stage, nn.Sequential) or not all(0 <= number < len(stage) for number in numbers):
            held = f"{len(stage)} blocks" if isinstance(stage, nn.Sequential) else "no such stage"
            raise ValueError(
                f"non-local blocks are to follow blocks {list(numbers)} of {stage_name}, and {type(net).__name__} has "
                f"{held}"
            )
        for number in numbers:
            convs = [module for module in stage[number].modules() if isinstance(module, nn.Conv2d)]
            stage[number] = AfterBlock(stage[number], NonLocalBlock(convs[-1].out_channels, **options), clip)
            inserted += 1
    return inserted


def default_places(net: nn.Module) -> dict[str, list[int]]:
    """Return two places spread over `layer2` and three over `layer3`.

    In ResNet-50 they are blocks 0, 2 and 0, 2, 4, as published. In a network without these stages, two places are
    spread over its `blocks`.
    """
    counts = _COUNTS if hasattr(net, "layer3") else _COUNTS_OF_OTHERS
    places = {}
    for name, count in counts.items():
        stage = getattr(net, name, None)
        depth = len(stage) if isinstance(stage, nn.Sequential) else 0
        places[name] = sorted({index * depth // count for index in range(count)})
    return places


@MODELS.register_family("tsm_nl_", key="backbone")
def tsm_nonlocal(
    *,
    backbone: str,
    num_labels: int,
    dropout: float = 0.5,
    consensus: Consensus = "logits",
    fraction: float = 1 / 8,
    shift_every: int | None = None,
    places: dict[str, list[int]] | None = None,
    pairing: Pairing = "embedded_gaussian",
    scale: bool = False,
    pool: PoolPlace = "after",
    out_bias: bool = True,
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build TSM with non-local blocks on a ResNet (arXiv:1811.08383, arXiv:1711.07971).

    Args:
        places: after which blocks of which stage; None for `default_places`.
        pairing: of the non-local blocks; so are `scale`, `pool` and `out_bias`. The published form has no scale and
            pools after the projections.
    """
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    model = TemporalSegmentNetwork(net, num_labels, dropout=dropout, consensus=consensus, head_std=head_std)
    insert_temporal_shift(net.net, model.clip, fraction, shift_every=shift_every)
    chosen = default_places(net.net) if places is None else places
    insert_nonlocal_2d(net.net, model.clip, chosen, pairing=pairing, scale=scale, pool=pool, out_bias=out_bias)
    return model
