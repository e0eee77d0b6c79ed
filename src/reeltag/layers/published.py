"""Weights of the published TensorFlow code of these layers, turned into their state dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from reeltag.layers.dbof import DBoF, GatedDBoW, SoftDBoW
from reeltag.layers.experts import MixtureOfExperts
from reeltag.layers.frames import FrameBatchNorm
from reeltag.layers.gating import ContextGating
from reeltag.layers.netfv import NetFV
from reeltag.layers.netvlad import NetRVLAD
from reeltag.layers.nextvlad import NeXtVLAD
from reeltag.layers.sequence import GRU, LSTM, ResetBeforeGRU

State = dict[str, Tensor]
Weights = Mapping[str, Tensor]


def _same(weight: Tensor) -> Tensor:
    return weight


def _turn(weight: Tensor) -> Tensor:
    return weight.reshape(weight.shape[-2:]).t()  # (1, D, K) or (D, K) to (K, D)


_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
Rule = tuple[str, Callable[[Tensor], Tensor]]


def _norm(theirs: str, ours: str) -> dict[str, Rule]:
    return {f"{theirs}/{a}": (f"{ours}.{b}", _same) for a, b in _NORM.items()}


def _linear(theirs: str, ours: str) -> dict[str, Rule]:
    return {f"{theirs}/weights": (f"{ours}.weight", _turn), f"{theirs}/biases": (f"{ours}.bias", _same)}


def _clusters(ours: str) -> dict[str, Rule]:
    return {
        "cluster_weights": (f"{ours}.linear.weight", _turn),
        "cluster_biases": (f"{ours}.linear.bias", _same),
        **_norm("cluster_bn", f"{ours}.norm"),
    }


_CENTERS: dict[str, Rule] = {"cluster_weights2": ("centers", _turn)}
_VLAD = _clusters("assign") | _CENTERS | {"gate_weights": ("gates", lambda w: w.squeeze(0))}
_GATED_DBOW = _clusters("assign") | {
    "dim_red": ("reduce.weight", _turn),
    "cluster_weights_2": ("expand.weight", _turn),
    "cluster_biases_2": ("expand.bias", _same),
    **_norm("cluster_bn_2", "gate_norm"),
}
_NEXTVLAD = (
    _linear("fully_connected", "expand")
    | _linear("fully_connected_1", "attention")
    | {"cluster_weights": ("assign.weight", _turn)}
    | _norm("cluster_bn", "assign_norm")
    | _CENTERS
    | _norm("vlad_bn", "norm")
)
_GATING: dict[str, Rule] = {
    "gating_weights": ("linear.weight", _turn),
    "gating_weights_2": ("linear.weight", _turn),
    "gating_biases": ("linear.bias", _same),
    **_norm("gating_bn", "norm"),
}
_EXPERTS = (
    _linear("gates", "gates")
    | _linear("gates1", "gates.0")
    | _linear("gates2", "gates.1")
    | _linear("experts", "experts")
    | {"gating_prob_weights": ("score_gate.linear.weight", _turn)}
    | _norm("gating_prob_bn", "score_gate.norm")
)
_RULES: dict[type[nn.Module], dict[str, Rule]] = {
    NetRVLAD: _VLAD,  # and its subclasses
    NetFV: _clusters("assign") | _CENTERS | {"covar_weights": ("covar_weights", _turn)},
    DBoF: _clusters("words"),
    SoftDBoW: _clusters("assign"),
    GatedDBoW: _GATED_DBOW,
    NeXtVLAD: _NEXTVLAD,
    ContextGating: _GATING,
    MixtureOfExperts: _EXPERTS,
    FrameBatchNorm: {theirs: (ours, _same) for theirs, ours in _NORM.items()},
    nn.Linear: {"weights": ("weight", _turn), "biases": ("bias", _same)},
}


def _lstm_state(weights: Weights, num_layers: int) -> State:
    state: State = {}
    for layer in range(num_layers):
        kernel = _ending(weights, f"cell_{layer}/basic_lstm_cell/kernel")
        bias = _ending(weights, f"cell_{layer}/basic_lstm_cell/bias").clone()
        hidden = bias.numel() // 4
        bias[2 * hidden : 3 * hidden] += 1  # their forget gate adds 1 at run time
        order = torch.arange(4 * hidden).view(4, hidden)[[0, 2, 1, 3]].flatten()  # i, j, f, o -> i, f, j, o
        rows = kernel.t()[order]
        state[f"rnn.weight_ih_l{layer}"], state[f"rnn.weight_hh_l{layer}"] = rows[:, :-hidden], rows[:, -hidden:]
        state[f"rnn.bias_ih_l{layer}"], state[f"rnn.bias_hh_l{layer}"] = bias[order], torch.zeros(4 * hidden)
    return state


def _gru_state(weights: Weights, num_layers: int) -> State:
    state: State = {}
    for layer in range(num_layers):
        cell = f"cell_{layer}/gru_cell"
        parts = ("gates", "candidate")
        rows = torch.cat([_ending(weights, f"{cell}/{part}/kernel").t() for part in parts])  # r, u, c
        hidden = rows.shape[0] // 3
        state[f"rnn.weight_ih.{layer}"], state[f"rnn.weight_hh.{layer}"] = rows[:, :-hidden], rows[:, -hidden:]
        state[f"rnn.bias.{layer}"] = torch.cat([_ending(weights, f"{cell}/{part}/bias") for part in parts])
    return state


def _ending(weights: Weights, ending: str) -> Tensor:
    found = [key for key in weights if key.endswith(ending)]
    if len(found) != 1:
        raise KeyError(f"expected one tensor whose name ends in {ending!r}, found {found}")
    return weights[found[0]]


def from_tensorflow(layer: nn.Module, weights: Weights) -> None:
    """Load the variables of a published TensorFlow layer into ours, in place.

    Known: LOUPE and the winning code of YouTube-8M 2017 (pooling, gating, recurrent, experts), google/youtube-8m,
    and the NeXtVLAD code. Names are those inside the layer's own scope: cut prefixes such as `video_VLAD/` off first.
    The optimizer's variables must not be among them.

    Args:
        layer: an instance built with the settings of the checkpoint.
        weights: their name to tensor, axes in TensorFlow's order.

    Raises:
        ValueError: no rule for this layer, a name without a rule, or one of ours left without a tensor.
        KeyError: a cell's variable of a recurrent layer is missing.
    """
    if isinstance(layer, LSTM) and isinstance(layer.rnn, nn.LSTM):
        state = _lstm_state(weights, layer.rnn.num_layers)
    elif isinstance(layer, GRU):
        if not isinstance(layer.rnn, ResetBeforeGRU):
            raise ValueError(
                "TensorFlow's GRU applies its reset gate before the product: build gru with reset='before'"
            )
        state = _gru_state(weights, len(layer.rnn.bias))
    else:
        rules = next((rules for kind, rules in _RULES.items() if isinstance(layer, kind)), None)
        if rules is None:
            raise ValueError(f"no published TensorFlow layout is known for {type(layer).__name__}")
        unknown = sorted(set(weights) - set(rules))
        if unknown:
            raise ValueError(f"{type(layer).__name__} has no place for {unknown}; it takes {sorted(rules)}")
        state = {rules[key][0]: rules[key][1](tensor) for key, tensor in weights.items()}
    counters = {name: value for name, value in layer.state_dict().items() if name.endswith("num_batches_tracked")}
    missing, extra = layer.load_state_dict(counters | state, strict=False)
    if missing or extra:
        raise ValueError(f"{type(layer).__name__}: no tensor for {missing}, no place for {extra}; check its settings")
