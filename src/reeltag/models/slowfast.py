"""SlowFast: few frames through a wide network, many through a narrow one that feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import PixelNorm, pixel_norm_for
from reeltag.models import MODELS
from reeltag.models.bottleneck3d import (
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
from reeltag.models.video_resnet import FORMS, KINETICS_MEAN, KINETICS_STD

SlowFrames = Literal["linspace", "stride"]
FUSION_RATIO = 2  # a lateral connection carries twice the fast path's channels


class Pathway(nn.Module):
    """Stem and stages of one path.

    Args:
        in_channels: channels of a frame.
        width: channels of the stem.
        stem: frames seen by the stem.
        kernels: temporal kernel of each block, one list a stage.
        fused: channels that a lateral connection adds in front of each stage.
        shift: see `Bottleneck3D`.
        nonlocal_blocks: blocks of each stage behind which `layer` stands.
        layer: builds such a layer from its channels.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stem: int,
        kernels: Kernels,
        *,
        fused: Sequence[int] = (0, 0, 0, 0),
        shift: float = 0.0,
        nonlocal_blocks: Sequence[Sequence[int]] = (),
        layer: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        check_kernels(kernels)
        self.stem = Stem(in_channels, width, stem)
        places = [*nonlocal_blocks, *[()] * (len(kernels) - len(nonlocal_blocks))]
        self.widths = [width]
        self.stages = nn.ModuleList()
        for index, (blocks, extra, after) in enumerate(zip(kernels, fused, places, strict=True)):
            stage = Stage(
                self.widths[-1] + extra,
                width * 2**index,
                blocks,
                2 if index else 1,
                shift=shift,
                after=after,
                layer=layer,
            )
            self.stages.append(stage)
            self.widths.append(stage.out_width)


class Lateral(nn.Module):
    """From fast to slow: a convolution (k, 1, 1) with temporal stride alpha, then batch norm and ReLU, or neither."""

    def __init__(self, in_width: int, width: int, kernel: int, alpha: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_width, width, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False)
        self.bn = nn.BatchNorm3d(width) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, T / alpha, H, W) of (B, in_width, T, H, W)."""
        x = self.conv(x)
        return x if self.bn is None else F.relu(self.bn(x), inplace=True)


class SlowFast(PooledVideoModel):
    """Two paths over one clip of T frames: T / alpha frames at full width, and all T at `beta` times the width.

    Paper: Feichtenhofer, Fan, Malik, He. SlowFast Networks for Video Recognition. ICCV 2019, arXiv:1812.03982,
    section 3 and table 1. A system that the paper calls T x tau with alpha is, here, alpha * T frames at stride
    tau / alpha.

    The feature map holds both paths: fast frames are averaged in groups of alpha, so that it has one time axis. Its
    global mean is that of the two maps side by side, which is what the published networks classify.

    Args:
        num_labels: L.
        norm: uint8 to network input; its length is the number of channels.
        slow_kernels: temporal kernel of each block of the slow path, one list a stage.
        fast_kernels: the fast path's; its depth may be another.
        alpha: frames of the fast path for each of the slow path.
        beta: width of the fast path as a share of the slow path's.
        width: channels of the slow path's stem.
        lateral_kernel: frames seen by a lateral connection, odd.
        lateral_norm: batch norm and ReLU behind the laterals, as in PyTorchVideo and PySlowFast, or neither.
        slow_frames: `linspace` from the first to the last frame, rounded down, or every alpha-th (`stride`).
        shift: share of channels of the slow path's branches moved each way in time; 0 is SlowFast.
        nonlocal_blocks: blocks of each stage of the slow path behind which `layer` stands.
        layer: builds such a layer from its channels.
        zero_init_last: start each block as its shortcut.
        dropout: probability on the pooled features, in [0, 1).
        head_std: see `VideoModel`.
        head_bias: see `VideoModel`.
    """

    def __init__(
        self,
        num_labels: int,
        norm: PixelNorm,
        slow_kernels: Kernels,
        fast_kernels: Kernels,
        *,
        alpha: int = 4,
        beta: float = 1 / 8,
        width: int = 64,
        lateral_kernel: int = 5,
        lateral_norm: bool = True,
        slow_frames: SlowFrames = "linspace",
        shift: float = 0.0,
        nonlocal_blocks: Sequence[Sequence[int]] = (),
        layer: LayerFactory | None = None,
        zero_init_last: bool = True,
        dropout: float = 0.5,
        head_std: float = 0.01,
        head_bias: bool = True,
    ) -> None:
        _check(len(slow_kernels), len(fast_kernels), alpha, width * beta, lateral_kernel, slow_frames)
        narrow = round(width * beta)
        last = EXPANSION * 2 ** (len(slow_kernels) - 1)
        super().__init__(norm, last * (width + narrow), dropout=dropout, head_std=head_std, head_bias=head_bias)
        self.alpha = alpha
        self.slow_frames = slow_frames
        in_channels = len(norm.scale)
        self.fast = Pathway(in_channels, narrow, FORMS["fast"].stem, fast_kernels, fused=[0] * len(fast_kernels))
        sources = self.fast.widths[:-1]
        self.laterals = nn.ModuleList(
            Lateral(channels, FUSION_RATIO * channels, lateral_kernel, alpha, lateral_norm) for channels in sources
        )
        self.slow = Pathway(
            in_channels,
            width,
            FORMS["slow"].stem,
            slow_kernels,
            fused=[FUSION_RATIO * channels for channels in sources],
            shift=shift,
            nonlocal_blocks=nonlocal_blocks,
            layer=layer,
        )
        init_published(self, zero_init_last)
        self.reset_classifier(num_labels)
        keep_order(self)

    def forward_map(self, x: Tensor) -> Tensor:
        """Return both paths' maps (B, D, T / alpha, H / 32, W / 32) of normalised input (B, C, T, H, W)."""
        fast = self.fast.stem(x)
        slow = self.slow.stem(take_frames(x, self.frame_indices(x.shape[2])))
        for lateral, wide, narrow in zip(self.laterals, self.slow.stages, self.fast.stages, strict=True):
            slow = wide(torch.cat((slow, lateral(fast)), 1))
            fast = narrow(fast)
        fast = fast.unflatten(2, (-1, self.alpha)).mean(3)
        return torch.cat((slow, fast), 1)

    def frame_indices(self, num_frames: int) -> list[int]:
        """Return which of the T frames the slow path sees.

        Raises:
            ValueError: T is not a multiple of alpha.
        """
        count, rest = num_frames // self.alpha, num_frames % self.alpha  # torch.export traces no divmod
        if rest or not count:
            raise ValueError(
                f"SlowFast takes clips whose frames are a multiple of alpha = {self.alpha}, got {num_frames} "
                "(num_frames is the fast path's)"
            )
        if self.slow_frames == "stride" or count == 1:
            return list(range(0, num_frames, self.alpha))
        # In whole numbers: in float32 the published form lands one frame early at a few lengths from 160 on.
        return [index * (num_frames - 1) // (count - 1) for index in range(count)]

    def blocks(self) -> list[nn.Module]:
        """Return the bottlenecks of both paths and the non-local layers between them."""
        stages = [*self.slow.stages, *self.fast.stages]
        return [part for stage in stages if isinstance(stage, Stage) for part in stage.parts()]


def take_frames(x: Tensor, indices: Sequence[int]) -> Tensor:
    """Return (B, C, len(indices), H, W) of (B, C, T, H, W); a clip in channels_last_3d order stays in it."""
    rows = torch.tensor(indices, device=x.device)
    return x.permute(0, 2, 3, 4, 1).index_select(1, rows).permute(0, 4, 1, 2, 3)


def _check(slow: int, fast: int, alpha: int, narrow: float, lateral_kernel: int, slow_frames: str) -> None:
    if slow != fast:
        raise ValueError(f"both paths have the same number of stages, got {slow} and {fast}")
    if alpha < 1:
        raise ValueError(f"alpha is at least 1, got {alpha}")
    if narrow < 1 or abs(narrow - round(narrow)) > 1e-6:
        raise ValueError(f"width * beta, the fast path's channels, is a whole number from 1 on, got {narrow}")
    if lateral_kernel < 1 or lateral_kernel % 2 == 0:
        raise ValueError(f"lateral_kernel is odd, got {lateral_kernel}")
    if slow_frames not in ("linspace", "stride"):
        raise ValueError(f"slow_frames is 'linspace' or 'stride', got {slow_frames!r}")


@dataclass(frozen=True)
class Variant:
    """What a published name fixes unless an option says otherwise.

    Attributes:
        slow: temporal kernel of each block of the slow path, one list a stage.
        fast: the fast path's.
        alpha: frames of the fast path for each of the slow path.
        beta: width of the fast path as a share of the slow path's.
        width: channels of the slow path's stem.
        lateral_kernel: frames seen by a lateral connection.
        shift: share of the slow path's channels moved each way in time; above 0 in `models/ctcnn.py`.
        num_frames: T of the published system, the fast path's.
        size_px: height and width of its clips.
    """

    slow: Kernels
    fast: Kernels
    alpha: int = 4
    beta: float = 1 / 8
    width: int = 64
    lateral_kernel: int = 5
    shift: float = 0.0
    num_frames: int = 32
    size_px: int = 224


def plain(depth: int, **changes: Any) -> Variant:
    """Return SlowFast of `depth` layers: kernels 1, 1, 3, 3 in the slow path, 3 everywhere in the fast path."""
    return Variant(FORMS["slow"].kernels(depth), FORMS["fast"].kernels(depth), **changes)


def fifty_fifty(**changes: Any) -> Variant:
    """Return the 101-layer form whose third stage sees time only in its first six blocks, as 50 layers would."""
    variant = plain(101, **changes)
    slow, fast = [[list(stage) for stage in kernels] for kernels in (variant.slow, variant.fast)]
    for kernels in (slow, fast):
        kernels[2][6:] = [1] * (len(kernels[2]) - 6)
    return replace(variant, slow=slow, fast=fast)


def slowfast(
    *,
    variant: Variant,
    num_labels: int,
    dropout: float = 0.5,
    in_channels: int = 3,
    alpha: int | None = None,
    beta: float | None = None,
    width: int | None = None,
    slow_kernels: Kernels | None = None,
    fast_kernels: Kernels | None = None,
    lateral_kernel: int | None = None,
    lateral_norm: bool = True,
    slow_frames: SlowFrames = "linspace",
    shift: float | None = None,
    nonlocal_blocks: Sequence[Sequence[int]] = (),
    nonlocal_layer: str = "nonlocal_block",
    nonlocal_options: dict[str, Any] | None = None,
    zero_init_last: bool = True,
    pixel_mean: tuple[float, ...] = KINETICS_MEAN,
    pixel_std: tuple[float, ...] = KINETICS_STD,
    head_std: float = 0.01,
    head_bias: bool = True,
) -> VideoModel:
    """Build SlowFast on bottleneck ResNets (arXiv:1812.03982), or CT-CNN, its form with temporal shift.

    Args:
        variant: the values of the options left out.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        in_channels: channels of a frame.
        alpha: see `SlowFast`.
        beta: see `SlowFast`.
        width: see `SlowFast`.
        slow_kernels: see `SlowFast`.
        fast_kernels: see `SlowFast`.
        lateral_kernel: see `SlowFast`.
        lateral_norm: see `SlowFast`.
        slow_frames: see `SlowFast`.
        shift: see `SlowFast`.
        nonlocal_blocks: blocks of each stage of the slow path, counted from 0, behind which a layer stands.
        nonlocal_layer: the registered layer that stands there.
        nonlocal_options: its own options.
        zero_init_last: start each block as its shortcut.
        pixel_mean: per channel of RGB, in 0..1.
        pixel_std: per channel of RGB, in 0..1.
        head_std: deviation of the classifier's weights.
        head_bias: whether the classifier has a bias; X-Temporal's has none.
    """
    model = SlowFast(
        num_labels,
        pixel_norm_for(in_channels, tuple(pixel_mean), tuple(pixel_std)),
        variant.slow if slow_kernels is None else slow_kernels,
        variant.fast if fast_kernels is None else fast_kernels,
        alpha=variant.alpha if alpha is None else alpha,
        beta=variant.beta if beta is None else beta,
        width=variant.width if width is None else width,
        lateral_kernel=variant.lateral_kernel if lateral_kernel is None else lateral_kernel,
        lateral_norm=lateral_norm,
        slow_frames=slow_frames,
        shift=variant.shift if shift is None else shift,
        nonlocal_blocks=nonlocal_blocks,
        layer=layer_factory(nonlocal_layer, nonlocal_options) if any(nonlocal_blocks) else None,
        zero_init_last=zero_init_last,
        dropout=dropout,
        head_std=head_std,
        head_bias=head_bias,
    )
    model.clip_shape = (variant.num_frames, in_channels, variant.size_px, variant.size_px)
    return model


VARIANTS = {
    "slowfast_r50": plain(50, lateral_kernel=7),
    "slowfast_r101": plain(101),
    "slowfast_r152": plain(152),
    "slowfast_r200": plain(200),
    "slowfast_4x16_r50": plain(50, alpha=8),
    "slowfast_16x8_r101_50_50": fifty_fifty(num_frames=64),
    # For clips of 64 px and 8 to 32 frames: three stages of one block, a fast path of half the width.
    "slowfast_mini": Variant(((1,), (1,), (3,)), ((3,), (3,), (3,)), beta=1 / 2, width=16, num_frames=16, size_px=64),
}
for _name, _variant in VARIANTS.items():
    MODELS.register(_name)(partial(slowfast, variant=_variant))
