"""Bottleneck ResNets over clips: slow-only, C2D and I3D, and the fast path alone at full width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import PixelNorm, pixel_norm_for
from reeltag.models import MODELS
from reeltag.models.bottleneck3d import (
    DEPTHS,
    EXPANSION,
    Kernels,
    LayerFactory,
    Stage,
    Stem,
    check_kernels,
    init_published,
    keep_order,
    layer_factory,
)
from reeltag.models.interface import VideoModel
from reeltag.models.pooled import PooledVideoModel

KINETICS_MEAN = (0.45, 0.45, 0.45)
KINETICS_STD = (0.225, 0.225, 0.225)


@dataclass(frozen=True)
class Form:
    """What distinguishes the networks of this file.

    Attributes:
        stem: frames seen by the stem.
        pattern: temporal kernels of the blocks of each stage, repeated along the stage.
        time_pool: whether pairs of frames are max-pooled behind the first stage.
        num_frames: T of the published system.
    """

    stem: int
    pattern: Kernels
    time_pool: bool
    num_frames: int

    def kernels(self, depth: int) -> list[list[int]]:
        """Return the temporal kernel of every block of a network of `depth` layers."""
        if depth not in DEPTHS:
            raise ValueError(f"depth is one of {', '.join(map(str, DEPTHS))}, got {depth}")
        return [
            [cycle[index % len(cycle)] for index in range(blocks)]
            for cycle, blocks in zip(self.pattern, DEPTHS[depth], strict=True)
        ]


FORMS = {
    "slow": Form(1, ((1,), (1,), (3,), (3,)), False, 8),
    "fast": Form(5, ((3,), (3,), (3,), (3,)), False, 32),
    "c2d": Form(1, ((1,), (1,), (1,), (1,)), True, 8),
    "i3d": Form(5, ((3,), (3, 1), (3, 1), (1, 3)), True, 8),
}


class VideoResNet(PooledVideoModel):
    """A bottleneck ResNet whose blocks see 1, 3 or 5 frames; time is kept but for an optional pool and the stem.

    Args:
        num_labels: L.
        norm: uint8 to network input; its length is the number of channels.
        kernels: temporal kernel of each block, one list a stage; their lengths are the depths.
        stem: frames seen by the stem.
        width: channels of the stem; stage s has 4 * width * 2^s.
        time_strides: temporal strides of the stem's convolution and pool.
        pool_padding: see `Stem`.
        time_pool: max-pool pairs of frames behind the first stage.
        nonlocal_blocks: blocks of each stage behind which `layer` stands.
        layer: builds such a layer from its channels.
        zero_init_last: start each block as its shortcut.
        dropout: probability on the pooled features, in [0, 1).
        head_std: see `VideoModel`.
    """

    def __init__(
        self,
        num_labels: int,
        norm: PixelNorm,
        kernels: Kernels,
        *,
        stem: int = 1,
        width: int = 64,
        time_strides: Sequence[int] = (1, 1),
        pool_padding: int = 1,
        time_pool: bool = False,
        nonlocal_blocks: Sequence[Sequence[int]] = (),
        layer: LayerFactory | None = None,
        zero_init_last: bool = True,
        dropout: float = 0.5,
        head_std: float = 0.01,
    ) -> None:
        check_kernels(kernels)
        widths = [width * 2**index for index in range(len(kernels))]
        super().__init__(norm, EXPANSION * widths[-1], dropout=dropout, head_std=head_std)
        self.stem = Stem(len(norm.scale), width, stem, time_strides, pool_padding)
        places = [*nonlocal_blocks, *[()] * (len(kernels) - len(nonlocal_blocks))]
        self.stages = nn.ModuleList()
        before = width
        for index, (inner, blocks, after) in enumerate(zip(widths, kernels, places, strict=True)):
            stage = Stage(before, inner, blocks, 2 if index else 1, after=after, layer=layer)
            self.stages.append(stage)
            before = stage.out_width
        self.time_pool = time_pool
        self.min_frames = (time_strides[0] * time_strides[1] + 1) if time_pool else 1
        init_published(self, zero_init_last)
        self.reset_classifier(num_labels)
        keep_order(self)

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the map (B, D, t, H / 32, W / 32) of normalised input (B, C, T, H, W)."""
        if x.shape[2] < self.min_frames:
            raise ValueError(f"a clip of this network has at least {self.min_frames} frames, got {x.shape[2]}")
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == 0 and self.time_pool:
                x = F.max_pool3d(x, (2, 1, 1))
        return x

    def blocks(self) -> list[nn.Module]:
        """Return the bottlenecks and the non-local layers between them."""
        return [part for stage in self.stages if isinstance(stage, Stage) for part in stage.parts()]


def video_resnet(
    *,
    form: str,
    depth: int,
    num_labels: int,
    dropout: float = 0.5,
    in_channels: int = 3,
    kernels: Kernels | None = None,
    stem_kernel: int | None = None,
    width: int = 64,
    time_strides: tuple[int, int] = (1, 1),
    pool_padding: int = 1,
    time_pool: bool | None = None,
    zero_init_last: bool = True,
    pixel_mean: tuple[float, ...] = KINETICS_MEAN,
    pixel_std: tuple[float, ...] = KINETICS_STD,
    head_std: float = 0.01,
    nonlocal_blocks: Sequence[Sequence[int]] = (),
    nonlocal_layer: str = "nonlocal_block",
    nonlocal_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build a network of one of `FORMS`; options left out are the form's.

    Args:
        form: `slow`, `fast`, `c2d` or `i3d`.
        depth: 50, 101, 152 or 200; no matter when `kernels` are given.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        in_channels: channels of a frame.
        kernels: see `VideoResNet`.
        stem_kernel: frames seen by the stem.
        width: channels of the stem.
        time_strides: temporal strides of the stem's convolution and pool; (2, 2) for I3D on 32 frames.
        pool_padding: see `Stem`.
        time_pool: max-pool pairs of frames behind the first stage.
        zero_init_last: start each block as its shortcut.
        pixel_mean: per channel of RGB, in 0..1.
        pixel_std: per channel of RGB, in 0..1.
        head_std: deviation of the classifier's weights.
        nonlocal_blocks: blocks of each stage, counted from 0, behind which a layer stands: [[], [1, 3], [1, 3, 5]].
        nonlocal_layer: the registered layer that stands there.
        nonlocal_options: its own options.
    """
    chosen = FORMS[form]
    model = VideoResNet(
        num_labels,
        pixel_norm_for(in_channels, tuple(pixel_mean), tuple(pixel_std)),
        chosen.kernels(depth) if kernels is None else kernels,
        stem=chosen.stem if stem_kernel is None else stem_kernel,
        width=width,
        time_strides=time_strides,
        pool_padding=pool_padding,
        time_pool=chosen.time_pool if time_pool is None else time_pool,
        nonlocal_blocks=nonlocal_blocks,
        layer=layer_factory(nonlocal_layer, nonlocal_options) if any(nonlocal_blocks) else None,
        zero_init_last=zero_init_last,
        dropout=dropout,
        head_std=head_std,
    )
    model.clip_shape = (chosen.num_frames, in_channels, 224, 224)
    return model


for _name, _form, _depth in (
    ("slow_r50", "slow", 50),
    ("slow_r101", "slow", 101),
    ("fast_r50", "fast", 50),
    ("fast_r101", "fast", 101),
    ("fast_r152", "fast", 152),
    ("fast_r200", "fast", 200),
    ("c2d_r50", "c2d", 50),
    ("c2d_r101", "c2d", 101),
    ("i3d_r50", "i3d", 50),
    ("i3d_r101", "i3d", 101),
):
    MODELS.register(_name)(partial(video_resnet, form=_form, depth=_depth))
