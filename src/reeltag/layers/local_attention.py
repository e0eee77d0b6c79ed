"""Attention of every place of a clip to the places around it, without a matrix over all pairs of places."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

Reach = tuple[int | float, int | float, int | float]
# A tile of queries sees this many keys at most times its own size: what bounds the memory of one step.
_TILE_PAIRS = 1 << 20


def reach_in_places(reach: Reach, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return (dt, dh, dw) as whole numbers: an int counts places, a float is a share of T, H or W, rounded down.

    Raises:
        ValueError: negative, or a share above 1.
    """
    if len(reach) != 3 or any(d < 0 or (isinstance(d, float) and d > 1) for d in reach):
        raise ValueError(f"reach is (dt, dh, dw), each a whole number >= 0 or a share of the axis in 0..1; got {reach}")
    return tuple(  # type: ignore[return-value]
        min(n - 1, math.floor(d * n + 1e-9) if isinstance(d, float) else d) for d, n in zip(reach, size, strict=True)
    )


def _tiles(size: tuple[int, int, int], reach: tuple[int, int, int]) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Yield (frames, rows) of queries with (frames, rows) of the keys that they may see, in forward order."""
    frames, height, width = size
    key_frames = min(frames, 2 * reach[0] + 1)
    rows = height
    while rows > 1 and rows * width * key_frames * min(height, rows + 2 * reach[1]) * width > _TILE_PAIRS:
        rows = -(-rows // 2)
    for t in range(frames):
        seen = slice(max(0, t - reach[0]), min(frames, t + reach[0] + 1))
        for h in range(0, height, rows):
            yield (
                slice(t, t + 1),
                slice(h, min(height, h + rows)),
                seen,
                slice(max(0, h - reach[1]), min(height, h + rows + reach[1])),
            )


def _allowed(query_rows: slice, key_frames: slice, key_rows: slice, width: int, reach: tuple[int, int, int]) -> Tensor:
    """Return (queries, keys) of one tile, True where the key's row and column lie within reach."""
    qh, kh = (torch.arange(s.start, s.stop) for s in (query_rows, key_rows))
    w = torch.arange(width)
    near_rows = (qh[:, None] - kh[None, :]).abs() <= reach[1]
    near_columns = (w[:, None] - w[None, :]).abs() <= reach[2]
    near = near_rows[:, None, :, None] & near_columns[None, :, None, :]  # (rows, W, rows, W)
    near = near.flatten(2).flatten(0, 1)  # (queries, keys of one frame)
    return near.repeat(1, key_frames.stop - key_frames.start)


def local_attention(query: Tensor, key: Tensor, value: Tensor, reach: Reach, *, scale: float = 1.0) -> Tensor:
    """Return the softmax-weighted mean of `value` over the places within reach of each query.

    The neighbourhood of (t, h, w) is |t - t'| <= dt, |h - h'| <= dh, |w - w'| <= dw, cut at the borders; the softmax
    runs over these places alone. Work is done in tiles of a few rows of a frame, whose mask is shared by the batch.

    Args:
        query: (B, D, T, H, W); `key` alike; `value`: (B, E, T, H, W).
        key: see `query`.
        value: see `query`.
        reach: (dt, dh, dw), see `reach_in_places`.
        scale: times the dot products.

    Returns:
        (B, E, T, H, W).
    """
    size: tuple[int, int, int] = query.shape[2:]  # type: ignore[assignment]
    near = reach_in_places(reach, size)
    query, key, value = (x.movedim(1, -1) for x in (query, key, value))  # (B, T, H, W, D)
    results = []
    masks: dict[tuple[int, ...], Tensor] = {}
    for q_frames, q_rows, k_frames, k_rows in _tiles(size, near):
        frames, rows = k_frames.stop - k_frames.start, k_rows.stop - k_rows.start
        shape = (q_rows.stop - q_rows.start, q_rows.start - k_rows.start, frames, rows)
        if shape not in masks:  # tiles in the middle of the clip share theirs
            masks[shape] = _allowed(q_rows, k_frames, k_rows, size[2], near).to(query.device)
        q = query[:, q_frames, q_rows].flatten(1, 3).unsqueeze(1)  # (B, 1, queries, D)
        k, v = (x[:, k_frames, k_rows].flatten(1, 3).unsqueeze(1) for x in (key, value))
        results.append(F.scaled_dot_product_attention(q, k, v, attn_mask=masks[shape], scale=scale).squeeze(1))
    return torch.cat(results, 1).unflatten(1, size).movedim(-1, 1)
