"""What every metric reads: checked scores and targets, cut into columns and row blocks, with shared work kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]
Kind = Literal["logit", "probability"]
T = TypeVar("T")

BLOCK_PAIRS = 1 << 20  # pairs of a row block: 4 MiB of float32
_COLUMNS_BYTES = 1 << 23
_TILE_ROWS = 256


class Pairs:
    """Scores and truth of N videos and L labels, checked once; a pair is one video with one label.

    Metrics that need the same ranks share them through `once`. Nothing of size N x L is copied.

    Attributes:
        scores: (N, L), higher is more likely; logits or probabilities, infinities allowed.
        targets: (N, L), 0 or 1.
        ignore: (N, L) bool, True where the truth is unknown, or None.
    """

    def __init__(self, scores: Array, targets: Array, ignore: Array | None, kind: Kind | None = None) -> None:
        self.scores = scores
        self.targets = targets
        self.ignore = ignore
        self._given_kind = kind
        self._kept: dict[str, Any] = {}

    @property
    def kind(self) -> Kind:
        """What the scores are, as given; otherwise `logit` where a known one lies outside [0, 1].

        Only thresholds and calibration ask: ranks are the same for both.
        """
        return self.once(_kind_of) if self._given_kind is None else self._given_kind

    @property
    def num_videos(self) -> int:
        """N."""
        return int(self.scores.shape[0])

    @property
    def num_labels(self) -> int:
        """L."""
        return int(self.scores.shape[1])

    def once(self, compute: Callable[[Pairs], T]) -> T:
        """Return `compute(self)`, computed at the first call only."""
        key = f"{compute.__module__}.{compute.__qualname__}"
        if key not in self._kept:
            self._kept[key] = compute(self)
        kept: T = self._kept[key]
        return kept

    def columns(self) -> Iterator[tuple[int, Array, Array]]:
        """Yield (label, (n,) scores, (n,) bool truth) of every label over the videos whose truth is known.

        The arrays lie in a buffer of at most `_COLUMNS_BYTES` that the next labels overwrite: a row-major matrix is
        read a few neighbouring labels at a time, since each memory access brings them all.
        """
        at_a_time = min(64, max(1, _COLUMNS_BYTES // max(1, self.scores.dtype.itemsize * self.num_videos)))
        inputs = (self.scores, self.targets, *(() if self.ignore is None else (self.ignore,)))
        buffers = [np.empty((at_a_time, self.num_videos), dtype=one.dtype) for one in inputs]
        for start in range(0, self.num_labels, at_a_time):
            labels = slice(start, min(start + at_a_time, self.num_labels))
            parts = [_transpose(one[:, labels], out) for one, out in zip(inputs, buffers, strict=True)]
            scores, positive = _sortable(parts[0]), self._positive(parts[1])
            known = None if self.ignore is None else ~parts[2]
            for i in range(len(scores)):
                if known is None:
                    yield start + i, scores[i], positive[i]
                else:
                    yield start + i, scores[i][known[i]], positive[i][known[i]]

    def row_blocks(self, max_pairs: int = BLOCK_PAIRS) -> Iterator[tuple[slice, Array, Array, Array | None]]:
        """Yield (rows, scores, positive, known) of consecutive videos, at most `max_pairs` pairs at a time.

        An ignored pair is not positive; `known` is None where every pair is known.
        """
        step = max(1, max_pairs // max(1, self.num_labels))
        for start in range(0, self.num_videos, step):
            rows = slice(start, min(start + step, self.num_videos))
            scores, positive = _sortable(self.scores[rows]), self._positive(self.targets[rows])
            known = None if self.ignore is None else ~self.ignore[rows]
            yield rows, scores, positive if known is None else positive & known, known

    @staticmethod
    def _positive(targets: Array) -> Array:
        return targets if targets.dtype.kind == "b" else targets > 0


def pairs_of(
    scores: Pairs | Array | Tensor,
    targets: Array | Tensor,
    ignore: Array | Tensor | None = None,
    *,
    kind: Kind | None = None,
) -> Pairs:
    """Check the input of a metric and return it as `Pairs`.

    Args:
        scores: (N, L) real numbers, or a `Pairs`, which comes back as it is (so that several metrics share work).
        targets: (N, L), 1 where the label is present and 0 where it is absent.
        ignore: (N, L), true where the truth is unknown; such pairs are left out everywhere.
        kind: `logit` or `probability`; None takes the scores for logits if a known one lies outside [0, 1].

    Raises:
        ValueError: shapes differ, a score is NaN, a target is neither 0 nor 1, or a probability lies outside [0, 1].
    """
    if isinstance(scores, Pairs):
        return scores
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))} or None, got {kind!r}")
    values, truth = as_array(scores), as_array(targets)
    if values.ndim != 2 or values.shape != truth.shape:
        raise ValueError(f"scores and targets must both be (N, L), got {values.shape} and {truth.shape}")
    mask = None if ignore is None else as_array(ignore).astype(bool, copy=False)
    if mask is not None and mask.shape != values.shape:
        raise ValueError(f"ignore must have the shape of the scores {values.shape}, got {mask.shape}")
    if mask is not None and not mask.any():
        mask = None
    if values.size and values.dtype.kind == "f" and np.isnan(values.min()):  # min carries a NaN and makes no copy
        row, column = np.argwhere(np.isnan(values))[0]
        raise ValueError(f"the score of video {row}, label {column} is NaN; scores must be numbers")
    pairs = Pairs(values, truth, mask, kind)
    _check_targets(pairs)
    if kind == "probability" and _kind_of(pairs) == "logit":
        raise ValueError("a score lies outside [0, 1], so these are no probabilities; give kind='logit'")
    return pairs


def _kind_of(pairs: Pairs) -> Kind:
    for _, scores, _, known in pairs.row_blocks():
        outside = (scores < 0) | (scores > 1)
        if (outside if known is None else outside & known).any():
            return "logit"
    return "probability"


def _check_targets(pairs: Pairs) -> None:
    if pairs.targets.dtype.kind == "b":
        return
    for start in range(0, pairs.num_videos, step := max(1, BLOCK_PAIRS // max(1, pairs.num_labels))):
        block = pairs.targets[start : start + step]
        wrong = (block != 0) & (block != 1)
        if pairs.ignore is not None:
            wrong &= ~pairs.ignore[start : start + step]
        if wrong.any():
            raise ValueError(f"targets must be 0 or 1, got {block[wrong].flat[0]}")


def as_array(values: float | Array | Tensor) -> Array:
    """Return numbers, numpy or torch on any device, as numpy; bfloat16 becomes float32."""
    if isinstance(values, np.ndarray):
        return values
    if not hasattr(values, "detach"):
        return np.asarray(values)
    import torch  # already loaded: the value is a tensor

    tensor: Tensor = values.detach().cpu()  # type: ignore[union-attr]
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def _transpose(block: Array, out: Array) -> Array:
    """Copy (n, g) to the first g rows of `out` (G, n), in tiles that stay in the cache, and return them."""
    for start in range(0, len(block), _TILE_ROWS):
        out[: block.shape[1], start : start + _TILE_ROWS] = block[start : start + _TILE_ROWS].T
    return out[: block.shape[1]]


def _sortable(values: Array) -> Array:
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)
