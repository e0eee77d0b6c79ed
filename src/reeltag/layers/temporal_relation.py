"""The relations of TRN: small networks on ordered sets of frames, summed over sets and over their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, islice
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reeltag.layers import LAYERS

Evaluation = Literal["mean", "fixed", "first"]
_MAX_FRAMES_OF_MEAN = 16  # 65,519 relations
_CHUNK = 2048  # relations whose hidden units are held at a time


@LAYERS.register("temporal_relation")
class TemporalRelation(nn.Module):
    """Label logits from relations among frames: every scale k has a two-layer network on k ordered frames.

    Paper: Zhou, Andonian, Oliva, Torralba. Temporal Relational Reasoning in Videos. ECCV 2018, arXiv:1711.08496,
    section 3.1. The logits are the sum over scales k, and over the drawn relations r of each, of
    W_k relu(V_k [relu(f_r1); ...; relu(f_rk)] + c_k) + b_k. At most 3 relations a scale are drawn, without replacement,
    once for the whole batch, and summed (not averaged) as in the published code. Single-scale TRN is the scale T alone,
    which has one relation.

    The published code draws in evaluation too, so its scores change from call to call. Here evaluation is one of

    - `mean`: for each scale the mean over all its relations times the number that training draws: the exact expectation
      of what training computes.
    - `fixed`: one draw, from `seed`, for every call.
    - `first`: the first relations of each scale in lexicographic order; what the published outputs that we test against
      used. They lie early in the clip.

    Args:
        dim: D of a frame's features.
        num_frames: T.
        num_labels: L.
        hidden: width of the relation networks; published are 256 (multi-scale) and 512 (single).
        scales: sizes of the sets of frames, largest first; None for T, T-1, ..., 2.
        evaluation: see above; `mean` is for at most 16 frames.
        seed: of the draw of `fixed`.

    Attributes:
        generator: where training draws come from; None is torch's own generator, which the trainer saves and restores.

    Raises:
        ValueError: a size or name is out of range.
    """

    def __init__(
        self,
        dim: int,
        num_frames: int,
        num_labels: int,
        *,
        hidden: int = 256,
        scales: Sequence[int] | None = None,
        evaluation: Evaluation = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.scales = tuple(range(num_frames, 1, -1)) if scales is None else tuple(scales)
        if not self.scales or min(self.scales) < 1 or max(self.scales) > num_frames:
            raise ValueError(
                f"scales must lie in 1..{num_frames}, the frames of a clip, and be there: got {self.scales}"
            )
        if evaluation not in ("mean", "fixed", "first"):
            raise ValueError(f"evaluation must be 'mean', 'fixed' or 'first', got {evaluation!r}")
        if evaluation == "mean" and num_frames > _MAX_FRAMES_OF_MEAN and self.scales != (num_frames,):
            raise ValueError(
                f"the mean over all relations is for at most {_MAX_FRAMES_OF_MEAN} frames, got {num_frames}; take "
                "evaluation='fixed'"
            )
        self.dim, self.num_frames = dim, num_frames
        self.counts = tuple(min(3, math.comb(num_frames, scale)) for scale in self.scales)
        self.hidden = nn.ModuleList(nn.Linear(scale * dim, hidden) for scale in self.scales)
        self.out_features = hidden * len(self.scales)
        self.generator: torch.Generator | None = None
        self.reset(num_labels)
        self._fix(self._evaluated(evaluation, seed))

    def reset(self, num_labels: int) -> None:
        """Replace the last layers; the relation networks stay."""
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        width = self.out_features // len(self.scales)
        self.out = nn.ModuleList(nn.Linear(width, num_labels) for _ in self.scales)

    def set_bias(self, logits: Tensor) -> None:
        """Set the biases so that (L,) `logits` come out where the relation networks give 0."""
        with torch.no_grad():
            for layer in self._out_layers():
                layer.bias.copy_(logits / sum(self.counts))

    def _out_layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, layer) for layer in self.out]

    def fix_relations(self, relations: Sequence[Tensor | Sequence[Sequence[int]]]) -> None:
        """Let evaluation use given relations: for each scale k, (R, k) rising frame numbers with R = min(3, count).

        Raises:
            ValueError: another number of scales, relations or frames.
        """
        chosen = [torch.as_tensor(given, device="cpu") for given in relations]
        wanted = list(zip(self.counts, self.scales, strict=True))
        if [tuple(given.shape) for given in chosen] != wanted:
            raise ValueError(f"relations must have the shapes {wanted}, got {[tuple(g.shape) for g in chosen]}")
        self._fix(chosen)

    def _fix(self, relations: Sequence[Tensor]) -> None:
        device = next(self.parameters()).device
        for index, relation in enumerate(relations):
            self.register_buffer(f"relations{index}", relation.to(device), persistent=False)

    def _evaluated(self, evaluation: Evaluation, seed: int) -> list[Tensor]:
        with torch.device("cpu"):
            if evaluation == "fixed":
                generator = torch.Generator().manual_seed(seed)
                return [self._draw(index, generator) for index in range(len(self.scales))]
            found = []
            for scale, count in zip(self.scales, self.counts, strict=True):
                every = combinations(range(self.num_frames), scale)
                found.append(torch.tensor(list(every if evaluation == "mean" else islice(every, count))))
            return found

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, index: int, generator: torch.Generator | None) -> Tensor:
        """Return (count, k) different relations of one scale; every relation is as likely as any other."""
        scale, count = self.scales[index], self.counts[index]
        drawn: set[tuple[int, ...]] = set()
        ordered: list[Tensor] = []
        while len(ordered) < count:
            frames = torch.randperm(self.num_frames, generator=generator, device="cpu")[:scale].sort().values
            key = tuple(frames.tolist())
            if key not in drawn:
                drawn.add(key)
                ordered.append(frames)
        return torch.stack(ordered)

    def pool(self, x: Tensor) -> Tensor:
        """Return (B, scales * hidden): the hidden units of (B, T, D) frames, summed over each scale's relations."""
        if x.ndim != 3 or x.shape[1:] != (self.num_frames, self.dim):
            raise ValueError(f"relations take (B, {self.num_frames}, {self.dim}) frames, got {tuple(x.shape)}")
        x = x.relu()
        sums = []
        for index, count in enumerate(self.counts):
            if self.training:
                relations = self._draw(index, self.generator).to(x.device)
            else:
                relations = self.get_buffer(f"relations{index}")
            sums.append(self._sum(x, index, relations) * (count / len(relations)))
        return torch.cat(sums, 1)

    def _sum(self, x: Tensor, index: int, relations: Tensor) -> Tensor:
        layer = cast(nn.Linear, self.hidden[index])
        if len(relations) <= 3:
            units: Tensor = layer(x[:, relations].flatten(2))  # (B, R, hidden)
            return units.relu().sum(1)
        # A relation's hidden units are a sum over its k places, so each place sees each frame once, however many sets.
        weight = layer.weight.unflatten(1, (-1, self.dim))  # (hidden, k, D)
        places = torch.einsum("btd,hkd->kbth", x, weight)
        total = torch.zeros_like(places[0, :, 0])
        for part in relations.split(_CHUNK):
            units = layer.bias
            for place, frames in zip(places, part.unbind(1), strict=True):
                units = units + place[:, frames]  # (B, R, hidden)
            total = total + units.relu().sum(1)
        return total

    def classify(self, pooled: Tensor) -> Tensor:
        """Return (B, L) logits of what `pool` gives."""
        logits = pooled.new_zeros(())
        for part, layer, count in zip(pooled.chunk(len(self.scales), 1), self._out_layers(), self.counts, strict=True):
            logits = logits + F.linear(part, layer.weight, layer.bias * count)  # each relation adds its scale's bias
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, L) logits of (B, T, D) frames."""
        return self.classify(self.pool(x))
