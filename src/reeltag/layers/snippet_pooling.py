"""The five poolings and the LSTM of "Beyond short snippets", on feature maps or vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling, masked_max, masked_sum, real_frames_first, widen, without_padding
from reeltag.layers.sequence import LSTM

Fuse = Literal["last", "max", "sum", "mean", "gain_sum", "gain_mean"]
FUSES = ("last", "max", "sum", "mean", "gain_sum", "gain_mean")


def _layers(dim: int, hidden: Sequence[int]) -> nn.Sequential:
    steps: list[nn.Module] = []
    for width in hidden:
        steps += [nn.Linear(dim, width), nn.ReLU()]
        dim = width
    return nn.Sequential(*steps)


def windows(x: Tensor, mask: Tensor | None, size: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut each clip's real frames into overlapping windows.

    A window counts when it is full of real frames; the first one counts always, and holds what there is in a clip
    shorter than `size`. Frames behind the last full window belong to none, as in a convolution without padding.

    Args:
        x: (B, T, D) features.
        mask: (B, T) bool.
        size: frames of a window.
        stride: frames from one window's start to the next.

    Returns:
        (B, W, D, size) values, zero where a short clip has no frame; (B, W, size) which of them are real; (B, W) which
        windows count.
    """
    if size < 1 or stride < 1:
        raise ValueError(f"size and stride of windows are at least 1 frame, got {size} and {stride}")
    x, lengths, _ = real_frames_first(x, mask)
    x = F.pad(x, (0, 0, 0, max(0, size - x.shape[1])))
    cut = x.unfold(1, size, stride)  # (B, W, D, size)
    start = stride * torch.arange(cut.shape[1], device=x.device)
    counts = (start + size <= lengths.unsqueeze(1)) | ((start == 0) & (lengths.unsqueeze(1) > 0))
    real = (start.unsqueeze(1) + torch.arange(size, device=x.device)) < lengths[:, None, None]
    return cut, real, counts


def _window_max(x: Tensor, mask: Tensor | None, size: int, stride: int) -> tuple[Tensor, Tensor]:
    cut, real, counts = windows(x, mask, size, stride)
    values = cut.masked_fill(~real.unsqueeze(2), float("-inf")).amax(-1)
    return values.masked_fill(~counts.unsqueeze(-1), 0), counts  # (B, W, D), (B, W)


class _SnippetPooling(FramePooling):
    """Frames as vectors, or as maps that are flattened in the order channels, rows, columns.

    Paper of all: Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga, Toderici. Beyond Short Snippets: Deep Networks for
    Video Classification. CVPR 2015, arXiv:1503.08909, section 3.1.
    """

    @staticmethod
    def vectors(x: Tensor) -> Tensor:
        """Flatten (B, T, C, H, W) maps to (B, T, C * H * W); vectors pass unchanged."""
        return x.flatten(2)


@LAYERS.register("conv_pooling")
class ConvPooling(_SnippetPooling):
    """Conv pooling: the maximum over all frames of the last maps, then fully connected layers.

    Paper: arXiv:1503.08909, section 3.1, "Conv Pooling", its best pooling.

    Args:
        dim: D, the values of a frame (C * H * W of maps).
        hidden: widths of the fully connected layers.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (4096, 4096)) -> None:
        super().__init__()
        self.layers = _layers(dim, hidden)
        self.out_features = hidden[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) or (B, T, C, H, W) with mask (B, T) to (B, hidden[-1])."""
        return widen(self.layers(masked_max(self.vectors(x), mask)))


@LAYERS.register("late_pooling")
class LatePooling(_SnippetPooling):
    """Late pooling: the same fully connected layers on every frame, then the maximum.

    Paper: arXiv:1503.08909, section 3.1, "Late Pooling".

    Args:
        dim: D, the values of a frame (C * H * W of maps).
        hidden: widths of the fully connected layers.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (4096, 4096)) -> None:
        super().__init__()
        self.layers = _layers(dim, hidden)
        self.out_features = hidden[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) or (B, T, C, H, W) with mask (B, T) to (B, hidden[-1])."""
        return widen(masked_max(self.layers(without_padding(self.vectors(x), mask)), mask))


@LAYERS.register("slow_pooling")
class SlowPooling(_SnippetPooling):
    """Slow pooling: maximum over short windows, one layer, maximum over the windows, more layers.

    Paper: arXiv:1503.08909, section 3.1, "Slow Pooling": windows of 10 frames with stride 5. `windows` says how clips
    of other lengths are cut.

    Args:
        dim: D, the values of a frame (C * H * W of maps).
        hidden: width of the layer on each window, then widths of the layers behind.
        window: frames.
        stride: frames.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (4096, 4096), *, window: int = 10, stride: int = 5) -> None:
        super().__init__()
        self.window_layer = _layers(dim, hidden[:1])
        self.layers = _layers(hidden[0], hidden[1:])
        self.window, self.stride = window, stride
        self.out_features = hidden[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) or (B, T, C, H, W) with mask (B, T) to (B, hidden[-1])."""
        values, counts = _window_max(self.vectors(x), mask, self.window, self.stride)
        return widen(self.layers(masked_max(self.window_layer(values), counts)))


@LAYERS.register("local_pooling")
class LocalPooling(_SnippetPooling):
    """Local pooling: maximum over short windows and the same layers on each; no second maximum.

    Paper: arXiv:1503.08909, section 3.1, "Local Pooling": one large softmax reads all windows ("towers"). With
    `num_windows` the towers stand side by side, as there; without, they are averaged, which is that softmax with
    weights shared among the towers, and takes clips of any length. `towers` gives each alone.

    Args:
        dim: D, the values of a frame (C * H * W of maps).
        hidden: widths of the layers on each window.
        window: frames.
        stride: frames.
        num_windows: towers side by side (zeros where a clip has fewer, the last are dropped where it has more).
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (4096, 4096),
        *,
        window: int = 10,
        stride: int = 5,
        num_windows: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = _layers(dim, hidden)
        self.window, self.stride, self.num_windows = window, stride, num_windows
        self.out_features = hidden[-1] * (num_windows or 1)

    def towers(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (B, W, hidden[-1]) and (B, W) which windows count."""
        values, counts = _window_max(self.vectors(x), mask, self.window, self.stride)
        return widen(self.layers(values)), counts

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) or (B, T, C, H, W) with mask (B, T) to (B, out_features)."""
        towers, counts = self.towers(x, mask)
        if self.num_windows is None:
            return masked_sum(towers, counts) / counts.sum(1, keepdim=True).clamp(min=1)
        towers = (towers * counts.unsqueeze(-1))[:, : self.num_windows]
        return F.pad(towers, (0, 0, 0, self.num_windows - towers.shape[1])).flatten(1)


@LAYERS.register("time_conv_pooling")
class TimeConvPooling(_SnippetPooling):
    """Time-domain convolution: 3D kernels over short windows, the maximum over time, fully connected layers.

    Paper: arXiv:1503.08909, section 3.1, "Time-Domain Convolution": 256 kernels of 3x3 over 10 frames, stride 5; the
    maps keep their size.

    Args:
        dim: C, the channels of a map, or D of vectors.
        hidden: widths of the fully connected layers.
        map_px: height and width of the maps; (1, 1) takes vectors, and a kernel of 1x1.
        num_kernels: of the convolution.
        window: frames.
        stride: frames.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (4096, 4096),
        *,
        map_px: tuple[int, int] = (1, 1),
        num_kernels: int = 256,
        window: int = 10,
        stride: int = 5,
    ) -> None:
        super().__init__()
        side = 1 if tuple(map_px) == (1, 1) else 3
        self.conv = nn.Conv3d(dim, num_kernels, (window, side, side), (stride, 1, 1), (0, side // 2, side // 2))
        self.map_px = (map_px[0], map_px[1])
        self.window, self.stride = window, stride
        self.layers = _layers(num_kernels * map_px[0] * map_px[1], hidden)
        self.out_features = hidden[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, C, H, W), or vectors (B, T, D), with mask (B, T) to (B, hidden[-1])."""
        cut, _, counts = windows(self.vectors(x), mask, self.window, self.stride)
        maps = cut.flatten(0, 1).unflatten(1, (-1, *self.map_px)).movedim(-1, 2)  # (B * W, C, window, H, W)
        responses = self.conv(maps).relu().unflatten(0, counts.shape)  # (B, W, kernels, 1, H, W)
        return widen(self.layers(masked_max(responses.flatten(2), counts)))


def frame_gain(mask: Tensor) -> Tensor:
    """Weight of each real frame, rising linearly from 0 at the first to 1 at the last; 1 in a clip of one frame.

    Paper: arXiv:1503.08909, section 3.2: the loss and the scores of the frames are weighed by it.

    Args:
        mask: (B, T) bool.

    Returns:
        (B, T) float32, 0 at padded frames.
    """
    place = (mask.cumsum(1) - 1).float()
    last = mask.sum(1, keepdim=True) - 1
    return torch.where(last > 0, place / last.clamp(min=1), 1.0) * mask


def fuse_frames(scores: Tensor, mask: Tensor | None = None, how: Fuse = "gain_mean") -> Tensor:
    """Join the scores of the frames of a clip.

    Paper: arXiv:1503.08909, section 3.2: the last frame, the maximum, the sum, or the sum weighed by `frame_gain`.

    Args:
        scores: (B, T, L) of each frame.
        mask: (B, T) bool.
        how: one of `FUSES`; "mean" and "gain_mean" divide the sums by the sum of weights.

    Returns:
        (B, L) float32; zeros for a clip without frames.
    """
    if how not in FUSES:
        raise ValueError(f"how is one of {', '.join(FUSES)}, got {how!r}")
    real = scores.new_ones(scores.shape[:2], dtype=torch.bool) if mask is None else mask
    if how == "max":
        return masked_max(widen(scores), mask)
    gain = frame_gain(real) if how.startswith("gain") else real.float()
    if how == "last":
        gain = (real.cumsum(1) == real.sum(1, keepdim=True)) * gain
    total = masked_sum(widen(scores) * gain.unsqueeze(-1), mask)
    return total / gain.sum(1, keepdim=True).clamp(min=1e-12) if how.endswith("mean") else total


@LAYERS.register("lstm_per_frame")
class PerFrameLSTM(FramePooling):
    """Five LSTM layers of 512, a softmax after every frame, and the frames' scores weighed from 0 to 1.

    Paper: arXiv:1503.08909, "LSTM". `frame_logits` and `frame_gain` give the loss of the paper, which weighs each
    frame's loss as the scores are weighed here.

    Args:
        dim: D, the width of a frame.
        num_labels: L.
        hidden: H of each layer.
        num_layers: stacked layers.
        activation: "softmax" as in the paper, or "sigmoid" for several labels a clip.
        fuse: how the scores of the frames become the clip's, one of `FUSES`.
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        *,
        hidden: int = 512,
        num_layers: int = 5,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        fuse: Fuse = "gain_mean",
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid") or fuse not in FUSES:
            raise ValueError(f"activation is softmax or sigmoid, fuse one of {FUSES}; got {activation!r}, {fuse!r}")
        self.lstm = LSTM(dim, hidden, num_layers, output="all")
        self.classifier = nn.Linear(hidden, num_labels)
        self.activation, self.fuse = activation, fuse
        self.out_features = num_labels

    def frame_logits(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits after each frame, (B, T, D) to (B, T, L)."""
        return self.classifier(self.lstm(x, mask))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score (B, T, D) with mask (B, T); returns probabilities (B, L)."""
        logits = widen(self.frame_logits(x, mask))
        scores = logits.softmax(-1) if self.activation == "softmax" else logits.sigmoid()
        return fuse_frames(scores, mask, self.fuse)
