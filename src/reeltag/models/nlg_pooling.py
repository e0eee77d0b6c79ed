"""Non-local gating's middle part: a non-local block on feature maps, then a pooling over their places or frames."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling
from reeltag.layers.nonlocal_block import NonLocalBlock
from reeltag.models.stream_pooling import first_std

# What each name pools with, and whether it reads a clip's frames in order (means over their places) or all places.
POOLINGS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "none": ("mean_pool", False, {}),
    "lstm": ("lstm", True, {"hidden": 512}),
    "blstm": ("blstm", True, {"hidden": 512}),
    "netvlad": ("netvlad", False, {"num_clusters": 64}),
    "nextvlad": ("nextvlad", False, {"num_clusters": 32, "groups": 8}),
    "nextvlad_med": ("nextvlad", False, {"num_clusters": 64, "groups": 8}),
    "nextvlad_big": ("nextvlad", False, {"num_clusters": 128, "groups": 8}),
}


def nonlocal_on_real_frames(block: NonLocalBlock, maps: Tensor, mask: Tensor) -> Tensor:
    """Return a non-local block's output on maps (B, C, T, H, W), in which padded frames are neither read nor written.

    A clip looks at its own real frames, one clip after the other; norms see the real frames of all clips. Padded frames
    come out as zeros.
    """
    clips = [clip[:, real] for clip, real in zip(maps, mask, strict=True)]  # each (C, t, H, W)
    seen = [block.attend(clip.unsqueeze(0)) for clip in clips if clip.shape[1]]
    found = torch.zeros_like(maps)
    if seen:
        real = torch.cat(clips, dim=1).unsqueeze(0)  # (1, C, all real frames, H, W)
        out = real + block.norm(block.out(torch.cat(seen, dim=2)))
        found.transpose(1, 2)[mask] = out.squeeze(0).transpose(0, 1).to(found.dtype)
    return found


class NonLocalPooling(nn.Module):
    """A non-local block on the maps of a clip, then a pooling.

    Source: RippleAI's entry to Multi-Moments in Time 2019, section 2.3, "NLG(X) = non-local layer, X, MLP + context
    gating". The report does not say what X reads: recurrent layers here read the mean over the places of each frame,
    the others the places of all frames as one set.

    Args:
        channels: C of the maps.
        pooling: one of `POOLINGS`.
        nonlocal_pool: of the block, see `NonLocalBlock`; maps of 1 x 1 need "none".
        options: of the pooling.
    """

    def __init__(self, channels: int, pooling: str, options: dict[str, Any], *, nonlocal_pool: str = "none") -> None:
        super().__init__()
        layer, self.by_frame, _ = POOLINGS[pooling]
        if options.get("output") == "all":
            raise ValueError("output='all' gives a vector per frame, and a clip needs one: choose 'last' or 'state'")
        self.block = NonLocalBlock(channels, pool=nonlocal_pool)  # type: ignore[arg-type]
        self.pooling = cast(FramePooling, LAYERS.build(layer, dim=channels, **options))
        self.out_features = self.pooling.out_features
        self.fc_std = first_std(self.pooling)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool maps (B, C, T, H, W) with mask (B, T) to (B, out_features)."""
        if mask is not None and bool(mask.all()):
            mask = None
        maps = self.block(maps) if mask is None else nonlocal_on_real_frames(self.block, maps, mask)
        if self.by_frame:
            return cast(Tensor, self.pooling(maps.mean((3, 4)).transpose(1, 2), mask))
        places = maps.flatten(3).permute(0, 2, 3, 1)  # (B, T, H * W, C)
        real = None if mask is None else mask.repeat_interleave(places.shape[2], dim=1)
        return cast(Tensor, self.pooling(places.flatten(1, 2), real))
