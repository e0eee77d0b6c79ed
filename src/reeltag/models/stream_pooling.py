"""Frames to one descriptor: an input norm, then a pooling over time for each stream of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.dbof import GatedDBoW, SoftDBoW
from reeltag.layers.frames import FrameBatchNorm, FramePooling
from reeltag.layers.netfv import NetFV
from reeltag.layers.netvlad import NetRVLAD
from reeltag.models.feature_head import unit_norm_std
from reeltag.models.feature_model import check_features

PER_STREAM = ("num_clusters", "groups")  # options of a pooling that may be given per stream


class StreamPooling(nn.Module):
    """Input batch norm over all features, then a pooling over time per stream, their outputs side by side.

    Args:
        feature_sizes: width of each stream; the streams stand side by side in the last axis of the features.
        poolings: one per stream, or a single one that reads all streams as one.
        input_norm: batch norm of every feature over the real frames, before pooling.

    Raises:
        ValueError: the number of poolings fits neither one nor the streams, or a pooling gives a vector per frame.
    """

    def __init__(self, feature_sizes: Sequence[int], poolings: Sequence[FramePooling], *, input_norm: bool) -> None:
        super().__init__()
        if len(poolings) not in (1, len(feature_sizes)):
            raise ValueError(f"{len(feature_sizes)} streams take one pooling or one each, got {len(poolings)}")
        if any(getattr(pooling, "output", None) == "all" for pooling in poolings):
            raise ValueError("output='all' gives a vector per frame, and a clip needs one: choose 'last' or 'state'")
        self.feature_sizes = tuple(feature_sizes)
        self.input_norm = FrameBatchNorm(sum(feature_sizes)) if input_norm else None
        self.poolings = nn.ModuleList(poolings)
        self.out_features = sum(pool.out_features for pool in poolings)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) with mask (B, T) to (B, out_features)."""
        check_features(features, self.feature_sizes)
        if self.input_norm is not None:
            features = self.input_norm(features, mask)
        if len(self.poolings) == 1:
            return cast(Tensor, self.poolings[0](features, mask))
        streams = features.split(self.feature_sizes, dim=-1)
        return torch.cat([pool(x, mask) for pool, x in zip(self.poolings, streams, strict=True)], dim=1)


def stream_poolings(
    layer: str, feature_sizes: Sequence[int], options: dict[str, Any], *, others: str | None = None, join: bool = False
) -> list[FramePooling]:
    """Build the poolings of a model's streams.

    Args:
        layer: the registered pooling of the first stream.
        feature_sizes: width of each stream.
        options: of the layer; `num_clusters` and `groups` may be a list with one value a stream. With `map_px` the
            features are maps, flattened in the order channels, rows, columns.
        others: the pooling of the other streams, which gets `num_clusters` and `batch_norm`; None = the same.
        join: one pooling over all streams.

    Raises:
        ValueError: no stream, a list with another length than that of the streams, an option of the layer out of range.
    """
    sizes = [sum(feature_sizes)] if join else list(feature_sizes)
    if not feature_sizes or min(feature_sizes) < 1:
        raise ValueError(f"feature_sizes holds the width of each stream, at least one, got {tuple(feature_sizes)}")
    poolings = []
    for index, size in enumerate(sizes):
        own = dict(options)
        for key in PER_STREAM:
            if isinstance(own.get(key), list | tuple):
                if len(own[key]) != len(sizes):
                    raise ValueError(f"{key} is one number or one per stream; got {own[key]} for {len(sizes)} streams")
                own[key] = own[key][index]
        if "map_px" in own:  # features are flattened maps, and the layer counts channels
            places = own["map_px"][0] * own["map_px"][1]
            if size % places:
                raise ValueError(f"features of {size} values are no maps of {own['map_px']}: {places} must divide them")
            size //= places
        name = layer if others is None or index == 0 else others
        known = LAYERS.schema(name)
        poolings.append(LAYERS.build(name, dim=size, **{key: own[key] for key in own if key in known}))
    return cast("list[FramePooling]", poolings)


def first_std(pooling: FramePooling) -> float | None:
    """Return the deviation of the first weights behind a pooling: published for descriptors of norm 1, else None."""
    if isinstance(pooling, NetRVLAD | NetFV | SoftDBoW | GatedDBoW):
        return unit_norm_std(pooling.assign.linear.out_features)
    return None
