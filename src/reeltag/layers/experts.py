"""Mixture of experts: per label, a few logistic experts and a gate that may also choose none of them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import widen
from reeltag.layers.gating import ContextGating

ScoreGate = Literal["none", "scores", "input"]


@LAYERS.register("mixture_of_experts")
class MixtureOfExperts(nn.Module):
    """Score of a label = sum over its experts of gate * sigmoid(expert); a dummy expert takes the rest and adds 0.

    Paper: Abu-El-Haija et al. YouTube-8M. arXiv:1609.08675, on mixtures of experts; gating of the scores after them
    from Miech, Laptev, Sivic, arXiv:1706.06905, on Context Gating. Gates have no bias, experts have one; columns are
    label-major.

    Departure: the output is the logit of that score, computed from logarithms, so that losses on logits stay exact
    where the score rounds to 0 or 1; `.sigmoid()` gives the published score.

    Args:
        dim: D, the width of the input.
        num_labels: L.
        num_experts: M per label, without the dummy.
        gate_rank: factor the gates' weight into D x rank x L * (M + 1); None = one full matrix.
        score_gate: "scores" multiplies each score by a context gate over all scores, "input" by one over the input.
        remove_diagonal: of the gate over the scores.
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        num_experts: int = 2,
        *,
        gate_rank: int | None = None,
        score_gate: ScoreGate = "none",
        remove_diagonal: bool = False,
    ) -> None:
        super().__init__()
        if num_experts < 1:
            raise ValueError(f"num_experts is the experts of a label without the dummy, at least 1, got {num_experts}")
        if score_gate not in ("none", "scores", "input"):
            raise ValueError(f"score_gate is none, scores or input, got {score_gate!r}")
        width = num_labels * (num_experts + 1)
        self.gates: nn.Module = nn.Linear(dim, width, bias=False)
        if gate_rank is not None:
            self.gates = nn.Sequential(nn.Linear(dim, gate_rank, bias=False), nn.Linear(gate_rank, width, bias=False))
        self.experts = nn.Linear(dim, num_labels * num_experts)
        self.score_gate: ContextGating | None = None
        if score_gate != "none":
            source = dim if score_gate == "input" else num_labels
            self.score_gate = ContextGating(num_labels, source_dim=source, remove_diagonal=remove_diagonal)
        self.gate_sees_input = score_gate == "input"
        self.num_experts, self.out_features = num_experts, num_labels

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, D) into logits (B, L), float32."""
        gates = F.log_softmax(widen(self.gates(x)).unflatten(-1, (-1, self.num_experts + 1)), dim=-1)
        experts = widen(self.experts(x)).unflatten(-1, (-1, self.num_experts))  # (B, L, M)
        chosen, dummy = gates[..., :-1], gates[..., -1]  # (B, L, M), (B, L)
        yes = (chosen + F.logsigmoid(experts)).logsumexp(-1)
        no = torch.logaddexp((chosen + F.logsigmoid(-experts)).logsumexp(-1), dummy)
        if self.score_gate is not None:
            gate = self.score_gate.scores(x if self.gate_sees_input else yes.exp())
            no = torch.logaddexp(no, yes + F.logsigmoid(-gate))
            yes = yes + F.logsigmoid(gate)
        return yes - no
