"""R3D and MC3: residual networks of whole 3D convolutions, deep ones and a small one."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, pixel_norm_for
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.residual3d import (
    WIDTHS,
    HeadPool,
    ResNet3D,
    Stem3D,
    TemporalInit,
    Triple,
    entry_conv,
    frame_conv,
    full_conv,
)

# Kinetics-400's own statistics, as torchvision and VMZ use them.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)

# Blocks a stage; networks up to 34 layers have basic blocks, deeper ones bottlenecks.
DEPTHS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def depths_of(depth: int) -> tuple[int, ...]:
    """Return the blocks of each stage of a network of `depth` layers."""
    if depth not in DEPTHS:
        raise ValueError(f"depth is one of {', '.join(map(str, DEPTHS))}, got {depth}")
    return DEPTHS[depth]


def r3d(
    *,
    depth: int,
    num_labels: int,
    dropout: float = 0.0,
    in_channels: int = 3,
    form: Literal["torchvision", "xtemporal"] | None = None,
    stages_3d: int = 4,
    zero_init_last: bool = False,
    pixel_mean: tuple[float, ...] | None = None,
    pixel_std: tuple[float, ...] | None = None,
) -> VideoModel:
    """Build R3D, or MC3 where only the first stage sees neighbouring frames.

    Paper: Tran et al. A Closer Look at Spatiotemporal Convolutions for Action Recognition. CVPR 2018, arXiv:1711.11248,
    sections 3.2 and 3.3; the bottlenecks are those of Hara, Kataoka, Satoh, arXiv:1711.09577.

    Args:
        depth: 10, 18, 34 (basic blocks), 50, 101, 152 or 200 (bottlenecks).
        num_labels: L.
        dropout: probability on the pooled features; X-Temporal trains with 0.5, torchvision without.
        in_channels: channels of a frame.
        form: `torchvision`: a 3x7x7 stem that only space is strided by; `xtemporal`: a 7x7x7 stem, and a max-pool that
            halves time and space. None is torchvision's up to 34 layers, X-Temporal's above.
        stages_3d: how many stages, from the first, have 3x3x3 convolutions; the others have 1x3x3 and keep time.
        zero_init_last: start each block as its shortcut.
        pixel_mean: per channel of RGB, in 0..1; None is the form's.
        pixel_std: per channel of RGB, in 0..1; None is the form's.
    """
    form = form or ("torchvision" if depth <= 34 else "xtemporal")
    if form not in ("torchvision", "xtemporal"):
        raise ValueError(f"form is 'torchvision' or 'xtemporal', got {form!r}")
    if not 0 <= stages_3d <= 4:
        raise ValueError(f"stages_3d is a number of stages from 0 to 4, got {stages_3d}")
    whole = form == "xtemporal"
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if whole else (KINETICS_MEAN, KINETICS_STD)
    frames = 7 if whole else 3
    conv = nn.Conv3d(in_channels, WIDTHS[0], (frames, 7, 7), (1, 2, 2), (frames // 2, 3, 3), bias=False)
    model = ResNet3D(
        num_labels,
        pixel_norm_for(in_channels, tuple(pixel_mean or mean), tuple(pixel_std or std)),
        Stem3D(conv, WIDTHS[0], pool_frames=3 if whole else 0),
        depths_of(depth),
        [(1, 1, 1), *((2 if stage < stages_3d else 1, 2, 2) for stage in (1, 2, 3))],
        [full_conv if stage < stages_3d else frame_conv for stage in range(4)],
        bottleneck=depth > 34,
        zero_init_last=zero_init_last,
        dropout=dropout,
    )
    model.clip_shape = (16, in_channels, 112, 112)
    return model


for _depth in (18, 34, 50, 101, 152):
    MODELS.register(f"r3d_{_depth}")(partial(r3d, depth=_depth))
MODELS.register("mc3_18")(partial(r3d, depth=18, stages_3d=1))


@MODELS.register("r3d_mini")
def r3d_mini(
    *,
    num_labels: int,
    dropout: float = 0.2,
    in_channels: int = 3,
    widths: tuple[int, ...] = (32, 64, 128),
    frames_seen_by: Literal["first", "both"] = "both",
    temporal_init: TemporalInit = "normal",
    head_pool: HeadPool = "space_max",
    cells: Triple = (4, 4, 4),
    head_std: float = 0.01,
) -> VideoModel:
    """Build a small R3D for clips of about 64 px: total stride 8 in space, none in time, spatial max-pooling.

    A 1x5x5 stem and a max-pool, then one 3x3x3 basic block a width, of which the second alone has a spatial stride: the
    `mini` backbone of TSN and TSM with time. Six convolutions see 13 frames, so that each output frame of 8 sees all.

    Args:
        num_labels: L.
        dropout: probability on the pooled features.
        in_channels: channels of a frame.
        widths: output width of each block.
        frames_seen_by: `both` convolutions of a block are 3x3x3, or the `first` alone and the second 1x3x3.
        temporal_init: see `ResNet3D`. With `shift` and `first` the network starts as `tsm_mini` of fraction 1/4.
        head_pool: see `ResNet3D`.
        cells: see `ResNet3D`.
        head_std: see `VideoModel`.
    """
    if frames_seen_by not in ("first", "both"):
        raise ValueError(f"frames_seen_by is 'first' or 'both', got {frames_seen_by!r}")
    widths = tuple(widths)
    conv = nn.Conv3d(in_channels, widths[0], (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False)
    model = ResNet3D(
        num_labels,
        pixel_norm_for(in_channels, (0.5,) * 3, (0.25,) * 3),
        Stem3D(conv, widths[0], pool_frames=1),
        (1,) * len(widths),
        [(1, 2, 2) if index == 1 else (1, 1, 1) for index in range(len(widths))],
        [full_conv if frames_seen_by == "both" else entry_conv] * len(widths),
        widths=widths,
        head_pool=head_pool,
        cells=cells,
        temporal_init=temporal_init,
        dropout=dropout,
        head_std=head_std,
    )
    model.clip_shape = (8, in_channels, 64, 64)
    return model
