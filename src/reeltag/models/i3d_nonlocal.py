"""I3D ResNets with non-local layers: over all places, over those within reach, or with learned relations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from reeltag.layers.local_attention import Reach
from reeltag.layers.nonlocal_block import Pairing, PoolPlace
from reeltag.layers.relation_block import Form as RelationForm
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.video_resnet import KINETICS_MEAN, KINETICS_STD, video_resnet

# Five layers, behind every second block of stages 2 and 3; in 101 layers, behind every seventh block of stage 3.
PLACES = {50: ((), (1, 3), (1, 3, 5)), 101: ((), (1, 3), (6, 13, 20))}
BEST_REACH: Reach = (1 / 2, 3 / 7, 3 / 7)  # of time, height and width: the best row of Qiniu's table 5


def i3d_nonlocal(
    *,
    depth: int,
    num_labels: int,
    dropout: float = 0.5,
    in_channels: int = 3,
    width: int = 64,
    time_strides: tuple[int, int] = (1, 1),
    nonlocal_blocks: Sequence[Sequence[int]] | None = None,
    pairing: Pairing = "embedded_gaussian",
    scale: bool = True,
    pool: PoolPlace = "before",
    pretrained: bool = False,
    pixel_mean: tuple[float, ...] = KINETICS_MEAN,
    pixel_std: tuple[float, ...] = KINETICS_STD,
    head_std: float = 0.01,
) -> VideoModel:
    """Build I3D with five non-local layers that see the whole clip (arXiv:1711.07971, section 4).

    Args:
        depth: 50 or 101.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        in_channels: channels of a frame.
        width: channels of the stem.
        time_strides: see `video_resnet`; (2, 2) for 32 frames.
        nonlocal_blocks: see `video_resnet`; the published places when None.
        pairing: see `NonLocalBlock`.
        scale: see `NonLocalBlock`.
        pool: see `NonLocalBlock`.
        pretrained: start from ImageNet weights, inflated.
        pixel_mean: per channel of RGB, in 0..1.
        pixel_std: per channel of RGB, in 0..1.
        head_std: deviation of the classifier's weights.
    """
    return video_resnet(
        form="i3d",
        depth=depth,
        num_labels=num_labels,
        dropout=dropout,
        in_channels=in_channels,
        width=width,
        time_strides=time_strides,
        nonlocal_blocks=PLACES[depth] if nonlocal_blocks is None else nonlocal_blocks,
        nonlocal_options={"pairing": pairing, "scale": scale, "pool": pool},
        pretrained=pretrained,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        head_std=head_std,
    )


def i3d_masked(
    *,
    depth: int,
    num_labels: int,
    dropout: float = 0.5,
    in_channels: int = 3,
    width: int = 64,
    time_strides: tuple[int, int] = (1, 1),
    nonlocal_blocks: Sequence[Sequence[int]] | None = None,
    reach: Reach = BEST_REACH,
    scale: bool = True,
    pretrained: bool = False,
    pixel_mean: tuple[float, ...] = KINETICS_MEAN,
    pixel_std: tuple[float, ...] = KINETICS_STD,
    head_std: float = 0.01,
) -> VideoModel:
    """Build I3D with five masked non-local layers (Qiniu's ActivityNet 2018 report, section 3, eq. 4).

    Args:
        depth: 50 or 101.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        in_channels: channels of a frame.
        width: channels of the stem.
        time_strides: see `video_resnet`; (2, 2) for 32 frames.
        nonlocal_blocks: see `video_resnet`; the published places when None.
        reach: (dt, dh, dw), whole numbers of places or shares of T, H and W; the default is the best row of table 5.
            1.0 is the whole axis.
        scale: see `NonLocalBlock`.
        pretrained: start from ImageNet weights, inflated.
        pixel_mean: per channel of RGB, in 0..1.
        pixel_std: per channel of RGB, in 0..1.
        head_std: deviation of the classifier's weights.
    """
    return video_resnet(
        form="i3d",
        depth=depth,
        num_labels=num_labels,
        dropout=dropout,
        in_channels=in_channels,
        width=width,
        time_strides=time_strides,
        nonlocal_blocks=PLACES[depth] if nonlocal_blocks is None else nonlocal_blocks,
        nonlocal_options={"scale": scale, "pool": "none", "reach": tuple(reach)},
        pretrained=pretrained,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        head_std=head_std,
    )


def i3d_relation(
    *,
    depth: int,
    num_labels: int,
    dropout: float = 0.5,
    in_channels: int = 3,
    width: int = 64,
    time_strides: tuple[int, int] = (1, 1),
    nonlocal_blocks: Sequence[Sequence[int]] | None = None,
    reach: tuple[int, int, int] = (0, 2, 2),
    field: tuple[int, int, int] = (1, 3, 3),
    hidden: int | None = 64,
    relation: RelationForm = "attention",
    pretrained: bool = False,
    pixel_mean: tuple[float, ...] = KINETICS_MEAN,
    pixel_std: tuple[float, ...] = KINETICS_STD,
    head_std: float = 0.01,
) -> VideoModel:
    """Build I3D with five relation-driven layers (Qiniu's ActivityNet 2018 report, section 3, eq. 7).

    Args:
        depth: 50 or 101.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        in_channels: channels of a frame.
        width: channels of the stem.
        time_strides: see `video_resnet`; (2, 2) for 32 frames.
        nonlocal_blocks: see `video_resnet`; the published places when None.
        reach: (t1, h1, w1) of the neighbourhood, in places.
        field: (t0, h0, w0) of the small network's receptive field. The report gives no numbers, only t1 < t0 < T / 2
            and alike for h and w: the defaults hold for the 4 frames that stages 2 and 3 have of a clip of 8, or of one
            of 32 with `time_strides` (2, 2).
        hidden: channels of the small network; an eighth of the layer's when None.
        relation: `attention` or `printed`, see `RelationBlock`.
        pretrained: start from ImageNet weights, inflated.
        pixel_mean: per channel of RGB, in 0..1.
        pixel_std: per channel of RGB, in 0..1.
        head_std: deviation of the classifier's weights.
    """
    options: dict[str, Any] = {"reach": tuple(reach), "field": tuple(field), "hidden": hidden, "form": relation}
    return video_resnet(
        form="i3d",
        depth=depth,
        num_labels=num_labels,
        dropout=dropout,
        in_channels=in_channels,
        width=width,
        time_strides=time_strides,
        nonlocal_blocks=PLACES[depth] if nonlocal_blocks is None else nonlocal_blocks,
        nonlocal_layer="relation_block",
        nonlocal_options=options,
        pretrained=pretrained,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        head_std=head_std,
    )


for _name, _builder, _depth in (
    ("i3d_nl_r50", i3d_nonlocal, 50),
    ("i3d_nl_r101", i3d_nonlocal, 101),
    ("i3d_masked_nl_r50", i3d_masked, 50),
    ("i3d_masked_nl_r101", i3d_masked, 101),
    ("i3d_relation_r50", i3d_relation, 50),
    ("i3d_relation_r101", i3d_relation, 101),
):
    MODELS.register(_name)(partial(_builder, depth=_depth))
