"""Recurrent layers over frames: LSTM, both directions of it, GRU, and the differences of TensorFlow's cells."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from reeltag.layers import LAYERS
from reeltag.layers.frames import FramePooling, real_frames_first, widen

Output = Literal["last", "state", "all"]


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first `lengths` steps of each (B, T, D) sequence; the rest stays."""
    step = torch.arange(x.shape[1], device=x.device)
    back = lengths.unsqueeze(1) - 1 - step
    return torch.take_along_dim(x, torch.where(back >= 0, back, step).unsqueeze(-1), 1)


class ResetBeforeGRU(nn.Module):
    """GRU layers whose reset gate acts before the recurrent product: c = tanh(W x + U (r * h) + b), as in TensorFlow.

    Paper: Cho et al., arXiv:1406.1078, section 2.3. `nn.GRU` (cuDNN) applies it after the product, so weights do not
    carry over. Weights are laid out as in `nn.GRU` (reset, update, candidate), with one bias.

    Args:
        dim: width of a step.
        hidden: width of the state.
        num_layers: stacked layers.
    """

    def __init__(self, dim: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        bound = 1 / math.sqrt(hidden)
        widths = [dim] + [hidden] * (num_layers - 1)
        self.weight_ih = nn.ParameterList(torch.empty(3 * hidden, w).uniform_(-bound, bound) for w in widths)
        self.weight_hh = nn.ParameterList(torch.empty(3 * hidden, hidden).uniform_(-bound, bound) for _ in widths)
        gates_open = torch.cat([torch.ones(2 * hidden), torch.zeros(hidden)])  # TensorFlow's start
        self.bias = nn.ParameterList(gates_open.clone() for _ in widths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run (B, T, D); returns the top layer's (B, T, H), zero after its length, and last states (layers, B, H)."""
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        real = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)  # (B, T)
        last = []
        for weight_ih, weight_hh, bias in zip(self.weight_ih, self.weight_hh, self.bias, strict=True):
            inputs = torch.nn.functional.linear(x, weight_ih, bias)  # (B, T, 3 * H)
            state, steps = inputs.new_zeros(x.shape[0], self.hidden), []
            for step in range(x.shape[1]):
                new = self._step(inputs[:, step], state, weight_hh)
                state = torch.where(real[:, step, None], new, state)
                steps.append(state)
            x = torch.stack(steps, dim=1).masked_fill(~real.unsqueeze(-1), 0)
            last.append(state)
        return x, torch.stack(last)

    def _step(self, inputs: Tensor, state: Tensor, weight_hh: Tensor) -> Tensor:
        split = 2 * self.hidden
        gates = (inputs[:, :split] + state @ weight_hh[:split].t()).sigmoid()
        reset, update = gates.chunk(2, dim=1)
        candidate = (inputs[:, split:] + (reset * state) @ weight_hh[split:].t()).tanh()
        return update * state + (1 - update) * candidate


class _Recurrent(FramePooling):
    """Real frames first, run, then the top layer's last state, its every state, or the last states of all layers."""

    def __init__(self, rnn: nn.Module, width: int, state_width: int, output: Output, backward: bool) -> None:
        super().__init__()
        if output not in ("last", "state", "all"):
            raise ValueError(f"output is last, state or all, got {output!r}")
        self.rnn = rnn
        self.output, self.reads_backward = output, backward
        self.out_features = state_width if output == "state" else width

    def run(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run (B, T, D), real steps first (all are without lengths); returns every, the last, the joined state."""
        if lengths is None:
            steps, state = self.rnn(x)
        else:
            packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            outputs, state = self.rnn(packed)
            steps = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])[0]
        state = state if isinstance(state, tuple) else (state,)
        parts = torch.stack([state[1], state[0]] if len(state) == 2 else [state[0]], dim=1)  # (layers, c and h, B, H)
        ends = 2 if getattr(self.rnn, "bidirectional", False) else 1
        last = state[0][-ends:].transpose(0, 1).flatten(1)
        return steps, last, parts.permute(2, 0, 1, 3).flatten(1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read (B, T, D) with mask (B, T) in order; returns (B, out_features), or (B, T, out_features) for "all"."""
        if mask is None:
            steps, last, state = self.run(x.flip(1) if self.reads_backward else x, None)
            if self.output == "all":
                return widen(steps.flip(1) if self.reads_backward else steps)
            return widen(last if self.output == "last" else state)
        moved, lengths, order = real_frames_first(x, mask)
        steps, last, state = self.run(_turned(moved, lengths) if self.reads_backward else moved, lengths)
        some = (lengths > 0).unsqueeze(1)
        if self.output != "all":
            return widen(last if self.output == "last" else state) * some
        steps = _turned(steps, lengths) if self.reads_backward else steps
        steps = torch.take_along_dim(steps, order.argsort(1).unsqueeze(-1), 1)  # back to where the frames stood
        return widen(steps) * some.unsqueeze(-1)


def _open_forget_gates(lstm: nn.LSTM, forget_bias: float) -> None:
    with torch.no_grad():
        for name, bias in lstm.named_parameters():
            if name.startswith("bias_ih"):  # gates stand in the order input, forget, candidate, output
                bias[lstm.hidden_size : 2 * lstm.hidden_size] += forget_bias


@LAYERS.register("lstm")
class LSTM(_Recurrent):
    """Long short-term memory over the frames.

    Paper: Hochreiter, Schmidhuber 1997; on YouTube-8M arXiv:1609.08675, section 4.1.3 ("last"), and arXiv:1706.06905
    ("state": [c1, h1, c2, h2, ...] of all layers, what its published classifier reads).

    TensorFlow's BasicLSTMCell computes the same numbers with gates in the order input, candidate, forget, output, one
    kernel for input and state, and 1 added to the forget gate at run time: `published.from_tensorflow` maps them.

    Args:
        dim: D, the width of a frame.
        hidden: H, the width of a state.
        num_layers: stacked layers.
        output: "last" = top layer's state after the last real frame (B, H), "state" = cell and state of every layer
            (B, 2 * H * num_layers), "all" = top layer after every frame (B, T, H), zero at padded frames.
        backward: read from the last real frame to the first.
        forget_bias: added to the initial bias of the forget gates.
        dropout: between layers, in training.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 512,
        num_layers: int = 1,
        *,
        output: Output = "last",
        backward: bool = False,
        forget_bias: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        rnn = nn.LSTM(dim, hidden, num_layers, batch_first=True, dropout=dropout)
        super().__init__(rnn, hidden, 2 * hidden * num_layers, output, backward)
        _open_forget_gates(rnn, forget_bias)


@LAYERS.register("blstm")
class BLSTM(_Recurrent):
    """Two LSTMs, one in each direction; their last states are joined (forward, then backward).

    Paper: Graves, Schmidhuber. Framewise phoneme classification with bidirectional LSTM. Neural Networks 2005.

    Args:
        dim: D, the width of a frame.
        hidden: H, of each direction.
        num_layers: stacked layers.
        output: "last" (B, 2 * H), "state" (B, 4 * H * num_layers), "all" (B, T, 2 * H), as in `LSTM`.
        forget_bias: added to the initial bias of the forget gates.
        dropout: between layers, in training.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 512,
        num_layers: int = 1,
        *,
        output: Output = "last",
        forget_bias: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        rnn = nn.LSTM(dim, hidden, num_layers, batch_first=True, dropout=dropout, bidirectional=True)
        super().__init__(rnn, 2 * hidden, 4 * hidden * num_layers, output, False)
        _open_forget_gates(rnn, forget_bias)


@LAYERS.register("gru")
class GRU(_Recurrent):
    """Gated recurrent units over the frames.

    Paper: Cho et al., arXiv:1406.1078, section 2.3; on YouTube-8M arXiv:1706.06905, whose classifier reads the states
    [h1, h2, ...] of all layers ("state").

    Args:
        dim: D, the width of a frame.
        hidden: H, the width of a state.
        num_layers: stacked layers.
        output: "last" (B, H), "state" (B, H * num_layers), "all" (B, T, H), as in `LSTM`.
        backward: read from the last real frame to the first.
        reset: "after" the recurrent product (PyTorch, cuDNN: fast), or "before" it as in the paper and TensorFlow,
            which published weights need.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 512,
        num_layers: int = 1,
        *,
        output: Output = "last",
        backward: bool = False,
        reset: Literal["after", "before"] = "after",
    ) -> None:
        if reset not in ("after", "before"):
            raise ValueError(f"reset is after or before, got {reset!r}")
        fast = nn.GRU(dim, hidden, num_layers, batch_first=True) if reset == "after" else None
        rnn = fast or ResetBeforeGRU(dim, hidden, num_layers)
        super().__init__(rnn, hidden, hidden * num_layers, output, backward)

    def run(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run (B, T, D), real steps first (all are without lengths); returns every, the last, the joined state."""
        if not isinstance(self.rnn, ResetBeforeGRU):
            return super().run(x, lengths)
        steps, last = self.rnn(x, lengths)
        return steps, last[-1], last.transpose(0, 1).flatten(1)
