"""R(2+1)D: residual networks whose 3D convolutions are parted into one over space and one over time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, pixel_norm_for
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.residual3d import WIDTHS, ConvMaker, Place, ResNet3D, Stem3D, Triple, point_conv
from reeltag.models.resnet3d import KINETICS_MEAN, KINETICS_STD, depths_of

MidRule = Literal["conv", "block", "same"]
FormName = Literal["torchvision", "vmz", "xtemporal", "mmaction2", "pytorchvideo"]


def mid_planes(in_width: int, width: int, kernel: int = 3) -> int:
    """Return the channels between the two halves that give them the parameters of one 3 x kernel x kernel convolution.

    Paper: arXiv:1711.11248, section 3.5, M_i = floor(t d^2 N_(i-1) N_i / (d^2 N_(i-1) + t N_i)), with t = 3.
    """
    return 3 * kernel**2 * in_width * width // (kernel**2 * in_width + 3 * width)


class Conv2Plus1D(nn.Module):
    """A spatial and a temporal convolution with batch norm and ReLU between them.

    Args:
        in_width: input channels.
        width: output channels.
        mid: channels between the two.
        kernel: height and width of the spatial kernel.
        frames: length of the temporal kernel.
        stride: (time, height, width); each half takes its own part of it.
        temporal_first: the order of the two halves.
        eps: of the norm between them.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        mid: int,
        *,
        kernel: int = 3,
        frames: int = 3,
        stride: Triple = (1, 1, 1),
        temporal_first: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        time, height, width_stride = stride
        pad, first, second = kernel // 2, (in_width, mid), (mid, width)
        over_space, over_time = (second, first) if temporal_first else (first, second)
        self.spatial = nn.Conv3d(
            *over_space, (1, kernel, kernel), (1, height, width_stride), (0, pad, pad), bias=False
        )  # fmt: skip
        self.bn = nn.BatchNorm3d(mid, eps)
        self.temporal = nn.Conv3d(*over_time, (frames, 1, 1), (time, 1, 1), (frames // 2, 0, 0), bias=False)
        self.temporal_first = temporal_first

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, T / time stride, H / stride, W / stride) of (B, in_width, T, H, W)."""
        first, second = (self.temporal, self.spatial) if self.temporal_first else (self.spatial, self.temporal)
        y: Tensor = second(F.relu(self.bn(first(x)), inplace=True))
        return y


@dataclass(frozen=True)
class Form:
    """What distinguishes the published R(2+1)D networks of one depth.

    Attributes:
        stem_mid: channels between the stem's halves; 0 takes them from `mid_planes`, None is a stem over space alone.
        mid: where the channels between the halves come from: `conv`: each convolution's own widths; `block`: the widths
            of its block (inputs, planes), the same for both convolutions; `same`: as many as the output.
        temporal_first: the temporal half comes first.
        stem_pool: a 1x3x3 max-pool of stride 2 behind the stem.
        eps: of the norms; `inner_eps`: of those between the halves.
        parted_shortcut: shortcuts are two 1x1x1 convolutions with a norm between them.
        time_strides: of the four stages; `first_stride` is the first stage's in space.
        zero_init_last: each block starts as its shortcut.
        mean: per channel of RGB, in 0..1; `std` likewise.
        clip: (frames, pixels) of the published system.
    """

    stem_mid: int | None
    mid: MidRule
    temporal_first: bool = False
    stem_pool: bool = False
    eps: float = 1e-5
    inner_eps: float = 1e-5
    parted_shortcut: bool = False
    time_strides: tuple[int, ...] = (1, 2, 2, 2)
    first_stride: int = 1
    zero_init_last: bool = False
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD
    clip: tuple[int, int] = (16, 112)


FORMS: dict[str, Form] = {
    "torchvision": Form(45, "block"),
    "vmz": Form(45, "conv", eps=1e-3, inner_eps=1e-3, clip=(32, 112)),
    "xtemporal": Form(0, "conv", stem_pool=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "mmaction2": Form(
        0, "conv", stem_pool=True, eps=1e-3, parted_shortcut=True, mean=IMAGENET_MEAN, std=IMAGENET_STD, clip=(8, 224)
    ),
    "pytorchvideo": Form(
        None, "same", temporal_first=True, time_strides=(1, 1, 2, 2), first_stride=2, zero_init_last=True,
        mean=(0.45,) * 3, std=(0.225,) * 3, clip=(16, 224),
    ),
}  # fmt: skip
# The form whose weights of that depth people have.
_BY_DEPTH: dict[int, FormName] = {18: "torchvision", 50: "pytorchvideo"}


def _conv_maker(form: Form) -> ConvMaker:
    def make(place: Place) -> nn.Module:
        own = (place.in_width, place.width)
        mid = place.width if form.mid == "same" else mid_planes(*(own if form.mid == "conv" else place.block))
        return Conv2Plus1D(
            *own, mid, stride=place.stride, temporal_first=form.temporal_first, eps=form.inner_eps
        )  # fmt: skip

    return make


def _parted_shortcut(place: Place) -> nn.Module:
    """Return two 1x1x1 convolutions; their widths follow the rule of a temporal kernel of 3, as published."""
    mid = mid_planes(place.in_width, place.width, 1)
    return Conv2Plus1D(place.in_width, place.width, mid, kernel=1, frames=1, stride=place.stride)


def _stem(form: Form, in_channels: int, pool: bool) -> Stem3D:
    width, stride = WIDTHS[0], (1, 2, 2)
    if form.stem_mid is None:
        conv: nn.Module = nn.Conv3d(in_channels, width, (1, 7, 7), stride, (0, 3, 3), bias=False)
    else:
        mid = form.stem_mid or mid_planes(in_channels, width, 7)
        conv = Conv2Plus1D(in_channels, width, mid, kernel=7, stride=stride, eps=form.inner_eps)
    return Stem3D(conv, width, pool_frames=int(pool), eps=form.eps)


def r2plus1d(
    *,
    depth: int,
    num_labels: int,
    dropout: float = 0.0,
    in_channels: int = 3,
    form: FormName | None = None,
    stem_pool: bool | None = None,
    mid_rule: MidRule | None = None,
    zero_init_last: bool | None = None,
    pixel_mean: tuple[float, ...] | None = None,
    pixel_std: tuple[float, ...] | None = None,
) -> VideoModel:
    """Build R(2+1)D in one of the forms that published weights have.

    Paper: Tran et al. A Closer Look at Spatiotemporal Convolutions for Action Recognition. CVPR 2018, arXiv:1711.11248,
    section 3.5; with IG-65M weights: Ghadiyaram et al., arXiv:1905.00561. Batch norm has torch's momentum 0.1, which is
    Caffe2's 0.9: the PyTorch port of VMZ writes 0.9 and means the former.

    Args:
        depth: 10, 18, 34 (basic blocks), 50, 101, 152 or 200 (bottlenecks).
        num_labels: L.
        dropout: probability on the pooled features; X-Temporal, PyTorchVideo and MMAction2 train with 0.5.
        in_channels: channels of a frame.
        form: one of `FORMS`; None is torchvision's for 18 layers, PyTorchVideo's for 50, VMZ's for all others.
        stem_pool: a max-pool behind the stem; None is the form's. The published cost of VMZ's 152-layer network (329.1
            G multiply-accumulates at 32 x 128 x 128) is that of the network without; their PyTorch port adds one.
        mid_rule: `conv`, `block` or `same`, see `Form`; None is the form's.
        zero_init_last: start each block as its shortcut; None is the form's.
        pixel_mean: per channel of RGB, in 0..1; None is the form's.
        pixel_std: per channel of RGB, in 0..1; None is the form's.
    """
    name = form or _BY_DEPTH.get(depth, "vmz")
    if name not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}, got {name!r}")
    if mid_rule not in (None, "conv", "block", "same"):
        raise ValueError(f"mid_rule is 'conv', 'block' or 'same', got {mid_rule!r}")
    chosen = FORMS[name]
    if mid_rule:
        chosen = Form(**{**vars(chosen), "mid": mid_rule})
    space = (chosen.first_stride, 2, 2, 2)
    model = ResNet3D(
        num_labels,
        pixel_norm_for(in_channels, tuple(pixel_mean or chosen.mean), tuple(pixel_std or chosen.std)),
        _stem(chosen, in_channels, chosen.stem_pool if stem_pool is None else stem_pool),
        depths_of(depth),
        [(time, step, step) for time, step in zip(chosen.time_strides, space, strict=True)],
        [_conv_maker(chosen)] * 4,
        shortcut=_parted_shortcut if chosen.parted_shortcut else point_conv,
        bottleneck=depth > 34,
        eps=chosen.eps,
        zero_init_last=chosen.zero_init_last if zero_init_last is None else zero_init_last,
        dropout=dropout,
    )
    frames, side = chosen.clip
    model.clip_shape = (frames, in_channels, side, side)
    return model


for _depth in (18, 34, 50, 101, 152):
    MODELS.register(f"r2plus1d_{_depth}")(partial(r2plus1d, depth=_depth))
