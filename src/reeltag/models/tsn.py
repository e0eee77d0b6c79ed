"""TSN and TSM: one 2D backbone on every frame, mean over the frames' scores; TSM lets frames see their neighbours."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from reeltag.layers.temporal_shift import ClipLength, TemporalShift
from reeltag.models import MODELS
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.interface import VideoModel, clip_check

Consensus = Literal["logits", "softmax"]
# The first layer of a residual branch, by the names that timm's block classes give it.
_BRANCH_ENTRIES = ("conv1", "conv_pw", "conv_dw", "norm1")
_BLOCK_WORDS = ("Block", "Bottleneck", "Residual", "DepthwiseSeparable")


class TemporalSegmentNetwork(VideoModel):
    """A 2D backbone on T frames, then dropout, a linear layer and the mean over frames.

    Papers: Wang et al. Temporal Segment Networks. ECCV 2016, arXiv:1608.00859, section 3.1 (average consensus);
    Lin, Gan, Han. TSM. ICCV 2019, arXiv:1811.08383 (`shift`).

    Args:
        backbone: the frame network.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        consensus: mean of `logits`, or log of the mean of `softmax` (Qiniu 2018); both (B, L).
        shift: share of channels moved each way before every residual branch; 0 is TSN.
        head_std: the classifier's weights are drawn normal with this deviation. 0.001 is TSN's published code, made for
            pretrained backbones; from drawn weights 0.01 learns much faster.
    """

    def __init__(
        self,
        backbone: ImageBackbone,
        num_labels: int,
        *,
        dropout: float = 0.5,
        consensus: Consensus = "logits",
        shift: float = 0.0,
        head_std: float = 0.001,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if consensus not in ("logits", "softmax"):
            raise ValueError(f"consensus must be 'logits' or 'softmax', got {consensus!r}")
        self.backbone = backbone
        self.num_features = backbone.num_features
        self.consensus = consensus
        self.clip = ClipLength()
        self.num_shifts = insert_temporal_shift(backbone.net, self.clip, shift) if shift else 0
        self.dropout = nn.Dropout(dropout)
        self.head_std = head_std
        self.reset_classifier(num_labels)

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, T, D, h, w) of a clip (B, T, C, H, W); tokens (B, T, P, D) for transformers."""
        clip_check(clip)
        self.clip.num_frames = clip.shape[1]
        features = self.backbone.forward_features(clip.flatten(0, 1))
        return features.unflatten(0, clip.shape[:2])  # (B, T, D, h, w)

    def blocks(self) -> list[nn.Module]:
        """Return the backbone's residual blocks."""
        return [block for _, block in residual_blocks(self.backbone.net)]

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, D) of the frames' pooled features with `pre_logits`."""
        frames = self.backbone.pool(features.flatten(0, 1)).unflatten(0, features.shape[:2])  # (B, T, D)
        if pre_logits:
            return frames.mean(1)
        logits = self.classifier(self.dropout(frames))  # (B, T, L)
        if self.consensus == "softmax":
            return logits.float().softmax(-1).mean(1).clamp_min(1e-12).log()
        return logits.mean(1)


def residual_blocks(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (path, module) of the residual blocks of a 2D network, found by the names of their classes in timm."""
    return [(p, m) for p, m in net.named_modules() if any(word in type(m).__name__ for word in _BLOCK_WORDS)]


def insert_temporal_shift(net: nn.Module, clip: ClipLength, fraction: float) -> int:
    """Shift the input of every residual branch of a 2D network; the shortcut sees the unshifted input.

    Networks whose third stage has 23 blocks or more shift every second block of every stage, as the published code does
    for ResNet-101 and deeper.

    Returns:
        The number of shifted branches.

    Raises:
        ValueError: the network has no residual block that we know how to enter.
    """
    entries = []
    for path, block in residual_blocks(net):
        name = next((entry for entry in _BRANCH_ENTRIES if isinstance(getattr(block, entry, None), nn.Module)), None)
        if name:
            entries.append((path, block, name))
    if not entries:
        raise ValueError(
            f"temporal shift finds no residual block in {type(net).__name__}; take a residual backbone such as resnet50"
        )
    third = sum(path.startswith("layer3.") for path, _, _ in entries)
    every = 2 if third >= 23 else 1
    shifted = 0
    for path, block, name in entries:
        position = path.rsplit(".", 1)[-1]
        if position.isdigit() and int(position) % every:
            continue
        setattr(block, name, TemporalShift(getattr(block, name), clip, fraction))
        shifted += 1
    return shifted


@MODELS.register_family("tsn_", key="backbone")
def tsn(
    *,
    backbone: str,
    num_labels: int,
    dropout: float = 0.5,
    consensus: Consensus = "logits",
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build TSN on any 2D backbone by name (arXiv:1608.00859)."""
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    return TemporalSegmentNetwork(net, num_labels, dropout=dropout, consensus=consensus, head_std=head_std)


@MODELS.register_family("tsm_", key="backbone")
def tsm(
    *,
    backbone: str,
    num_labels: int,
    dropout: float = 0.5,
    consensus: Consensus = "logits",
    fraction: float = 1 / 8,
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build TSM on any residual 2D backbone by name (arXiv:1811.08383, residual shift)."""
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    return TemporalSegmentNetwork(
        net, num_labels, dropout=dropout, consensus=consensus, shift=fraction, head_std=head_std
    )
