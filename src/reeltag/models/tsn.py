"""TSN and TSM: one 2D backbone on every frame, mean over the frames' scores; TSM lets frames see their neighbours."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from reeltag.layers.temporal_shift import ClipLength, TemporalShift
from reeltag.models import MODELS
from reeltag.models.frame_network import FrameNetwork, branch_entries, outer_blocks, position
from reeltag.models.image2d import ImageBackbone, build_backbone
from reeltag.models.interface import VideoModel

Consensus = Literal["logits", "softmax"]
Place = Literal["residual", "block"]
# The published code thins out the shifts of networks whose third stage is at least this deep (ResNet-101).
DEEP_STAGE = 23


class TemporalSegmentNetwork(FrameNetwork):
    """A 2D backbone on T frames, then dropout, a linear layer and the mean over frames.

    Paper: Wang et al. Temporal Segment Networks. ECCV 2016, arXiv:1608.00859, section 3.1 (average consensus).

    Args:
        backbone: the frame network.
        num_labels: L.
        dropout: probability on the pooled features, in [0, 1).
        consensus: mean of `logits`, or log of the mean of `softmax` (Qiniu 2018); both (B, L).
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
        head_std: float = 0.001,
    ) -> None:
        super().__init__(backbone)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if consensus not in ("logits", "softmax"):
            raise ValueError(f"consensus must be 'logits' or 'softmax', got {consensus!r}")
        self.consensus = consensus
        self.dropout = nn.Dropout(dropout)
        self.head_std = head_std
        self.reset_classifier(num_labels)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return (B, L) logits, or the mean (B, D) of the frames' pooled features with `pre_logits`."""
        frames = self.pool_frames(features)  # (B, T, D)
        if pre_logits:
            return frames.mean(1)
        logits = self.classifier(self.dropout(frames))  # (B, T, L)
        if self.consensus == "softmax":
            return logits.float().softmax(-1).mean(1).clamp_min(1e-12).log()
        return logits.mean(1)


def insert_temporal_shift(
    net: nn.Module, clip: ClipLength, fraction: float, *, place: Place = "residual", shift_every: int | None = None
) -> int:
    """Shift the input of the residual branches of a 2D network, or of whole blocks.

    Paper: TSM, arXiv:1811.08383, section 4.1: in front of a branch (`residual`) the shortcut sees the unshifted input;
    in front of the block it does not.

    Args:
        net: the network, changed in place.
        clip: where the frames per clip stand.
        fraction: share of channels moved each way, in (0, 1/2].
        place: `residual` or `block`.
        shift_every: shift every n-th block of each stage, from the first on. None is the published rule: with
            `residual`, every second one if the third stage has 23 blocks or more; else every one.

    Returns:
        The number of shifts.

    Raises:
        ValueError: the network has no residual block that we know how to enter, or an argument is out of range.
    """
    if place not in ("residual", "block"):
        raise ValueError(f"place must be 'residual' or 'block', got {place!r}")
    if shift_every is not None and shift_every < 1:
        raise ValueError(f"shift_every counts blocks and must be at least 1, got {shift_every}")
    if place == "block":
        blocks = [(path, block) for path, block in outer_blocks(net) if position(path) % (shift_every or 1) == 0]
        if not blocks:
            raise ValueError(
                f"temporal shift finds no blocks in {type(net).__name__}; take a backbone such as resnet50"
            )
        for path, block in blocks:
            parent, _, name = path.rpartition(".")
            setattr(net.get_submodule(parent), name, TemporalShift(block, clip, fraction))
        return len(blocks)
    entries = branch_entries(net, "temporal shift")
    if shift_every is None:
        third = len({entry.path for entry in entries if entry.path.startswith("layer3.")})
        shift_every = 2 if third >= DEEP_STAGE else 1
    chosen = [entry for entry in entries if position(entry.path) % shift_every == 0]
    for entry in chosen:
        setattr(entry.block, entry.name, TemporalShift(entry.layer, clip, fraction))
    return len(chosen)


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
    place: Place = "residual",
    shift_every: int | None = None,
    head_std: float = 0.001,
    in_channels: int = 3,
    pretrained: bool = False,
    backbone_options: dict[str, Any] | None = None,
) -> VideoModel:
    """Build TSM on any residual 2D backbone by name: TSN whose blocks see their neighbouring frames (arXiv:1811.08383).

    Args:
        fraction: share of channels moved each way.
        place: in front of each residual branch, or of each `block`.
        shift_every: see `insert_temporal_shift`; 1 is X-Temporal's rule for deep networks, None the authors'.
    """
    net = build_backbone(backbone, in_channels=in_channels, pretrained=pretrained, **(backbone_options or {}))
    model = TemporalSegmentNetwork(net, num_labels, dropout=dropout, consensus=consensus, head_std=head_std)
    insert_temporal_shift(net.net, model.clip, fraction, place=place, shift_every=shift_every)
    return model
