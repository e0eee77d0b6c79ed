"""C3D: eight 3x3x3 convolutions between five max-pools, and two dense layers of 4096 on the flattened map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers.pixel_norm import PixelNorm, pixel_norm_for
from reeltag.models import MODELS
from reeltag.models.interface import VideoModel
from reeltag.models.pooled import to_channels_first
from reeltag.models.residual3d import store_channels_last

# Output channels of the convolutions before each pool.
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
DENSE = 4096
# MMAction2's statistics: means of 0..255 pixels, which are not scaled.
SPORTS_MEAN = (104 / 255, 117 / 255, 128 / 255)
SPORTS_STD = (1 / 255, 1 / 255, 1 / 255)


class ConvStage(nn.Module):
    """Convolutions with ReLU, then a max-pool of stride equal to its window.

    Args:
        in_width: input channels.
        widths: output channels of each convolution.
        window: frames, height and width of the pool.
        pad: padding of the pool in space.
        batch_norm: a norm behind each convolution, which then has no bias.
    """

    def __init__(
        self, in_width: int, widths: Sequence[int], window: tuple[int, int, int], *, pad: int, batch_norm: bool
    ) -> None:
        super().__init__()
        pairs = list(zip((in_width, *widths[:-1]), widths, strict=True))
        self.convs = nn.ModuleList(nn.Conv3d(a, b, 3, padding=1, bias=not batch_norm) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm3d(b) if batch_norm else nn.Identity() for _, b in pairs)
        self.window, self.pad = window, (0, pad, pad)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled map of (B, C, T, H, W)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        return F.max_pool3d(x, self.window, self.window, self.pad)


class C3D(VideoModel):
    """Eight convolutions and three dense layers; the first dense layer fixes the length and the size of clips.

    Paper: Tran et al. Learning Spatiotemporal Features with 3D Convolutional Networks. ICCV 2015, arXiv:1412.0767,
    section 3.3. Convolutions are drawn He-normal and dense layers with deviation 0.005, as MMAction2 does.

    Args:
        num_labels: L.
        norm: uint8 to network input.
        num_frames: T.
        size_px: height and width of clips.
        first_pool_frames: frames that the first pool merges; the paper keeps all (1).
        batch_norm: norms behind convolutions and dense layers.
        dropout: probability behind both dense layers, in [0, 1).
    """

    def __init__(
        self,
        num_labels: int,
        norm: PixelNorm,
        *,
        num_frames: int = 16,
        size_px: int = 112,
        first_pool_frames: int = 1,
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if first_pool_frames not in (1, 2):
            raise ValueError(f"first_pool_frames is 1 or 2, got {first_pool_frames}")
        time, side = num_frames // first_pool_frames // 8, size_px // 16
        if time < 1 or side < 1:
            raise ValueError(
                f"C3D needs at least {8 * first_pool_frames} frames of 16 px, got num_frames {num_frames} and "
                f"size_px {size_px}"
            )
        last = min(2, time)  # the last pool takes two frames where there still are two
        self.norm, self.num_frames, self.size_px = norm, num_frames, size_px
        self.steps = (8 * first_pool_frames, 16, 16)  # what four pools divide time, height and width by
        self.stages = nn.ModuleList()
        before = len(norm.scale)
        for index, widths in enumerate(STAGES):
            window = ((first_pool_frames, 2, 2, 2, last)[index], 2, 2)
            self.stages.append(ConvStage(before, widths, window, pad=int(index == 4), batch_norm=batch_norm))
            before = widths[-1]
        flat = before * (time // last) * (side // 2 + 1) ** 2
        self.fc6 = nn.Linear(flat, DENSE, bias=not batch_norm)
        self.fc7 = nn.Linear(DENSE, DENSE, bias=not batch_norm)
        self.bn6: nn.Module = nn.BatchNorm1d(DENSE) if batch_norm else nn.Identity()
        self.bn7: nn.Module = nn.BatchNorm1d(DENSE) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.num_features = DENSE
        self._draw()
        self.reset_classifier(num_labels)
        self.clip_shape = (num_frames, len(norm.scale), size_px, size_px)

    def _draw(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.005)
            if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        store_channels_last(self)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, 512, t, h, w) of a clip (B, T, C, H, W).

        Raises:
            ValueError: the clip has another length or size than the dense layers take.
        """
        x = to_channels_first(clip, self.norm)
        built = (self.num_frames, self.size_px, self.size_px)
        if any(a // step != b // step for a, b, step in zip(x.shape[2:], built, self.steps, strict=True)):
            raise ValueError(
                f"this C3D takes {self.num_frames} frames of {self.size_px} x {self.size_px} px, got {x.shape[2]} of "
                f"{x.shape[3]} x {x.shape[4]}; build it with num_frames and size_px, or crop to its size"
            )
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the second dense layer (B, 4096) with `pre_logits`."""
        x = features.flatten(1)  # (B, 512 * t * h * w), channels first
        x = self.dropout(F.relu(self.bn6(self.fc6(x))))
        x = F.relu(self.bn7(self.fc7(x)))
        return x if pre_logits else self.classifier(self.dropout(x))

    def blocks(self) -> list[nn.Module]:
        """Return the five groups of convolutions."""
        return list(self.stages)


@MODELS.register("c3d")
def c3d(
    *,
    num_labels: int,
    num_frames: int = 16,
    size_px: int = 112,
    dropout: float = 0.5,
    in_channels: int = 3,
    batch_norm: bool = False,
    first_pool_frames: int = 1,
    pixel_mean: tuple[float, ...] = SPORTS_MEAN,
    pixel_std: tuple[float, ...] = SPORTS_STD,
) -> VideoModel:
    """Build C3D (arXiv:1412.0767); with `batch_norm` and `first_pool_frames` 2 that of Quo vadis (arXiv:1705.07750).

    Where two frames are merged first, one is left before the last pool, which then merges none (assumed: section 2.2 of
    the latter does not say).
    """
    norm = pixel_norm_for(in_channels, tuple(pixel_mean), tuple(pixel_std))
    return C3D(
        num_labels,
        norm,
        num_frames=num_frames,
        size_px=size_px,
        first_pool_frames=first_pool_frames,
        batch_norm=batch_norm,
        dropout=dropout,
    )
