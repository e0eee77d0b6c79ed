"""What TSN, TSM, TIN and TRN share: one 2D backbone on every frame, and the places where time enters it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from reeltag.layers.temporal_shift import ClipLength
from reeltag.models.image2d import ImageBackbone
from reeltag.models.interface import VideoModel, clip_check

# The first layer of a residual branch, by the names that timm's block classes give it.
_BRANCH_ENTRIES = ("conv1", "conv_pw", "conv_dw", "norm1")
_BLOCK_WORDS = ("Block", "Bottleneck", "Residual", "DepthwiseSeparable")
_PARALLEL_BRANCH = re.compile(r"branch\d+")  # Inception-ResNet's blocks have several


class FrameNetwork(VideoModel):
    """A 2D backbone that sees the T frames of each clip as a batch of images; subclasses add the head.

    Attributes:
        backbone: the frame network.
        clip: the frames per clip of the batch in flight, read by the layers inside the backbone that mix frames.
    """

    def __init__(self, backbone: ImageBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = backbone.num_features
        frames, _, height, width = self.clip_shape
        self.clip_shape = (frames, backbone.in_channels, height, width)
        self.clip = ClipLength()

    def forward_features(self, clip: Tensor) -> Tensor:
        """Return the map (B, T, D, h, w) of a clip (B, T, C, H, W); tokens (B, T, P, D) for transformers."""
        clip_check(clip)
        self.clip.num_frames = clip.shape[1]
        features = self.backbone.forward_features(clip.flatten(0, 1))
        return features.unflatten(0, clip.shape[:2])  # (B, T, D, h, w)

    def pool_frames(self, features: Tensor) -> Tensor:
        """Return (B, T, D): the backbone's own pooling of each frame's map."""
        return self.backbone.pool(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def frame_features(self, clip: Tensor) -> Tensor:
        """Return (B, T, D): the pooled features of each frame, which `reeltag extract` stores."""
        return self.pool_frames(self.forward_features(clip))

    def blocks(self) -> list[nn.Module]:
        """Return the backbone's outermost blocks."""
        return [block for _, block in outer_blocks(self.backbone.net)]


@dataclass(frozen=True)
class BranchEntry:
    """Where a residual branch begins: the layer called `name` of the block at `path`."""

    path: str
    block: nn.Module
    name: str

    @property
    def layer(self) -> nn.Module:
        """The layer that sees the block's input first."""
        layer: nn.Module = getattr(self.block, self.name)
        return layer


def position(path: str) -> int:
    """Return a block's number within its stage, from 0, by its path."""
    last = path.rsplit(".", 1)[-1]
    return int(last) if last.isdigit() else 0


def residual_blocks(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (path, module) of the residual blocks of a 2D network, found by the names of their classes in timm."""
    return [(p, m) for p, m in net.named_modules() if any(word in type(m).__name__ for word in _BLOCK_WORDS)]


def outer_blocks(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks that do not lie within another."""
    outer: list[tuple[str, nn.Module]] = []
    for path, block in residual_blocks(net):  # a block comes before what lies within it
        if not outer or not path.startswith(f"{outer[-1][0]}."):
            outer.append((path, block))
    return outer


def branch_entries(net: nn.Module, what: str) -> list[BranchEntry]:
    """Return where the residual branches of a 2D network begin; a block of parallel branches has one entry for each.

    Blocks without a shortcut (MobileNet's first of each stage) are no residual branch: what mixes frames there would
    take the present frame away.

    Args:
        net: the network.
        what: what is to be put there, for the error message.

    Raises:
        ValueError: the network has no residual block that we know how to enter.
    """
    entries = []
    for path, block in residual_blocks(net):
        if not getattr(block, "has_skip", True):
            continue
        names = [name for name in _BRANCH_ENTRIES if isinstance(getattr(block, name, None), nn.Module)][:1]
        names = names or [name for name, _ in block.named_children() if _PARALLEL_BRANCH.fullmatch(name)]
        entries += [BranchEntry(path, block, name) for name in names]
    if not entries:
        raise ValueError(
            f"{what} finds no residual block in {type(net).__name__}; take a residual backbone such as resnet50"
        )
    return entries
