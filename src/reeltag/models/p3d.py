"""P3D: bottleneck networks whose blocks have a spatial and a temporal convolution, in series or side by side."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import IMAGENET_MEAN, IMAGENET_STD, PixelNorm, pixel_norm_for
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.pooled import PooledVideoModel
from reeltag.models.residual3d import EXPANSION, WIDTHS, Triple, store_channels_last

# Blocks a stage, by the number of layers in the field's names.
DEPTHS = {63: (3, 4, 6, 3), 131: (3, 4, 23, 3), 199: (3, 8, 36, 3)}
MIN_FRAMES = 16


class PseudoBlock(nn.Module):
    """A bottleneck with a 1x3x3 convolution S, and in forms A, B and C a 3x1x1 convolution T, inside.

    Form A: T(S(x)); B: T(x) + S(x); C: S(x) + T(S(x)), each of S and T with its norm and ReLU; `-`: S(x) alone.

    Args:
        in_width: input channels.
        planes: channels inside; the output has four times as many.
        form: A, B, C or -.
        stride: spatial stride, of the first 1x1x1 convolution and the shortcut.
    """

    def __init__(self, in_width: int, planes: int, form: str, stride: int) -> None:
        super().__init__()
        self.out_width = EXPANSION * planes
        step: Triple = (1, stride, stride)
        self.form = form
        self.conv1 = nn.Conv3d(in_width, planes, 1, step, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.spatial = nn.Conv3d(planes, planes, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn_spatial = nn.BatchNorm3d(planes)
        if form != "-":
            self.temporal = nn.Conv3d(planes, planes, (3, 1, 1), padding=(1, 0, 0), bias=False)
            self.bn_temporal = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, self.out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(self.out_width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != self.out_width:
            shortcut = nn.Conv3d(in_width, self.out_width, 1, step, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(self.out_width))

    def _over_space(self, x: Tensor) -> Tensor:
        return F.relu(self.bn_spatial(self.spatial(x)), inplace=True)

    def _over_time(self, x: Tensor) -> Tensor:
        return F.relu(self.bn_temporal(self.temporal(x)), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * planes, T, H / stride, W / stride) of (B, in_width, T, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        space = self._over_space(y)
        if self.form == "A":
            y = self._over_time(space)
        elif self.form == "B":
            y = self._over_time(y) + space
        elif self.form == "C":
            y = space + self._over_time(space)
        else:
            y = space
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class PseudoResNet3D(PooledVideoModel):
    """Stages of pseudo-3D blocks that halve time between them, a last stage of 2D blocks, and a global mean.

    Paper: Qiu, Yao, Mei. Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks. ICCV 2017,
    arXiv:1711.10305, section 3. Time is halved four times, so that 16 frames end as one. In the published code the
    frames that a longer clip leaves become clips of the batch; here the last stage sees each, and the mean is over
    them. All convolutions are drawn He-normal by fan-out.

    Args:
        num_labels: L.
        norm: uint8 to network input.
        depths: blocks of the four stages.
        forms: of the blocks of the first three stages, taken in turn.
        dropout: probability on the pooled features, in [0, 1).
    """

    def __init__(
        self, num_labels: int, norm: PixelNorm, depths: tuple[int, ...], *, forms: str = "ABC", dropout: float = 0.5
    ) -> None:
        if not forms or set(forms) - set("ABC"):
            raise ValueError(f"forms is a cycle of the letters A, B and C such as 'ABC', got {forms!r}")
        super().__init__(norm, EXPANSION * WIDTHS[-1], dropout=dropout)
        before = WIDTHS[0]
        self.conv = nn.Conv3d(len(norm.scale), before, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.bn = nn.BatchNorm3d(before)
        self.stages = nn.Sequential()
        done = 0
        for index, (depth, planes) in enumerate(zip(depths, WIDTHS, strict=True)):
            stage = nn.Sequential()
            for number in range(depth):
                form = "-" if index == 3 else forms[(done + number) % len(forms)]
                block = PseudoBlock(before, planes, form, 2 if index and not number else 1)
                stage.append(block)
                before = block.out_width
            done += depth
            self.stages.append(stage)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        store_channels_last(self)
        self.reset_classifier(num_labels)

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the map (B, 2048, T / 16, H / 32, W / 32) of normalised input (B, C, T, H, W).

        Raises:
            ValueError: fewer than 16 frames, which the pools over time would bring to none.
        """
        if x.shape[2] < MIN_FRAMES:
            raise ValueError(f"P3D halves time four times and takes at least {MIN_FRAMES} frames, got {x.shape[2]}")
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        x = F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index < 3:
                x = F.max_pool3d(x, (2, 1, 1))
        return x

    def blocks(self) -> list[nn.Module]:
        """Return the residual blocks."""
        return [module for module in self.stages.modules() if isinstance(module, PseudoBlock)]


def p3d(
    *,
    depth: int,
    num_labels: int,
    dropout: float = 0.5,
    in_channels: int = 3,
    forms: str = "ABC",
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN,
    pixel_std: tuple[float, ...] = IMAGENET_STD,
) -> VideoModel:
    """Build P3D (arXiv:1711.10305) with 63, 131 or 199 layers; `forms` "A", "B" or "C" alone are its ablations."""
    norm = pixel_norm_for(in_channels, tuple(pixel_mean), tuple(pixel_std))
    model = PseudoResNet3D(num_labels, norm, DEPTHS[depth], forms=forms, dropout=dropout)
    model.clip_shape = (MIN_FRAMES, in_channels, 160, 160)
    return model


for _depth in DEPTHS:
    MODELS.register(f"p3d_{_depth}")(partial(p3d, depth=_depth))
