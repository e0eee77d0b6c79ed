"""Recurrent layers against PyTorch's own cells and a reset-before GRU written out."""

import pytest
import torch
from torch import nn

from reeltag.layers import LAYERS
from reeltag.layers.published import from_tensorflow

REAL = [5, 3, 1]


def frames():
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(5) < torch.tensor(REAL).unsqueeze(1)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("name", "cell"), [("lstm", nn.LSTMCell), ("gru", nn.GRUCell)])
def test_states_equal_cells_stepped_by_hand(name, cell, backward):
    torch.manual_seed(0)
    x, mask = frames()
    layers = {
        output: LAYERS.build(name, dim=4, hidden=6, num_layers=2, output=output, backward=backward)
        for output in ("last", "state", "all")
    }
    weights = layers["last"].rnn.state_dict()
    for layer in layers.values():
        layer.rnn.load_state_dict(weights)
    cells = [cell(4, 6), cell(6, 6)]
    for i, one in enumerate(cells):
        one.load_state_dict({k.removesuffix(f"_l{i}"): v for k, v in weights.items() if k.endswith(f"_l{i}")})
    with torch.no_grad():
        out = {output: layer(x, mask) for output, layer in layers.items()}
    for b, real in enumerate(REAL):
        state, every = [None, None], torch.zeros(5, 6)
        for t in range(real)[:: -1 if backward else 1]:
            step = x[b, t].unsqueeze(0)
            for i, one in enumerate(cells):
                state[i] = one(step, state[i])
                step = state[i][0] if name == "lstm" else state[i]
            every[t] = step[0].detach()
        joined = [part for s in state for part in ((s[1], s[0]) if name == "lstm" else (s,))]  # c1, h1, c2, h2
        torch.testing.assert_close(out["last"][b], step[0].detach())
        torch.testing.assert_close(out["all"][b], every)
        torch.testing.assert_close(out["state"][b], torch.cat(joined, dim=1)[0].detach())


def test_reset_before_differs_only_by_the_place_of_the_reset_gate():
    torch.manual_seed(0)
    x, mask = frames()
    layer = LAYERS.build("gru", dim=4, hidden=6, reset="before")
    w_in, w_state, bias = layer.rnn.weight_ih[0], layer.rnn.weight_hh[0], layer.rnn.bias[0]
    for b, real in enumerate(REAL):
        h = torch.zeros(6)
        for t in range(real):
            i = w_in @ x[b, t] + bias
            r, u = (i[:6] + w_state[:6] @ h).sigmoid(), (i[6:12] + w_state[6:12] @ h).sigmoid()
            h = u * h + (1 - u) * (i[12:] + w_state[12:] @ (r * h)).tanh()
        torch.testing.assert_close(layer(x, mask)[b], h)
    usual = LAYERS.build("gru", dim=4, hidden=6)
    state = {"weight_ih_l0": w_in, "weight_hh_l0": w_state, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros(18)}
    usual.rnn.load_state_dict(state)
    assert (usual(x, mask) - layer(x, mask))[0].abs().max() > 1e-3
    torch.testing.assert_close(usual(x, mask)[2], layer(x, mask)[2])  # one step from zero: nothing to reset


def test_blstm_joins_the_ends_of_both_directions():
    torch.manual_seed(0)
    x, mask = frames()
    both = LAYERS.build("blstm", dim=4, hidden=6)
    ends = []
    for suffix, backward in (("", False), ("_reverse", True)):
        one = LAYERS.build("lstm", dim=4, hidden=6, backward=backward)
        own = {k: both.rnn.state_dict()[k + suffix] for k in one.rnn.state_dict()}
        one.rnn.load_state_dict(own)
        ends.append(one(x, mask))
    torch.testing.assert_close(both(x, mask), torch.cat(ends, dim=1))


def test_every_state_stays_at_its_frame_when_padding_lies_between():
    torch.manual_seed(0)
    x = frames()[0]
    mask = torch.tensor([[True, False, True, True, False]]).expand(3, 5)
    for options in ({}, {"backward": True}):
        layer = LAYERS.build("lstm", dim=4, hidden=6, output="all", **options)
        out = layer(x, mask)
        torch.testing.assert_close(out[:, [0, 2, 3]], layer(x[:, [0, 2, 3]]))
        assert not out[:, [1, 4]].any()


def test_forget_gates_start_open():
    closed = LAYERS.build("lstm", dim=4, hidden=6, forget_bias=0.0).rnn.bias_ih_l0
    assert closed[6:12].abs().max() < 0.5
    assert LAYERS.build("lstm", dim=4, hidden=6).rnn.bias_ih_l0[6:12].min() > 0.5


def test_tensorflow_weights_need_their_own_gru():
    with pytest.raises(ValueError, match="reset='before'"):
        from_tensorflow(LAYERS.build("gru", dim=4, hidden=6), {})
    with pytest.raises(KeyError, match="cell_0"):
        from_tensorflow(LAYERS.build("lstm", dim=4, hidden=6), {})


def test_published_weights_must_fit():
    layer = LAYERS.build("netvlad", dim=4, num_clusters=3)
    with pytest.raises(ValueError, match="no place for"):
        from_tensorflow(layer, {"cluster_wieghts": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match="no tensor for"):
        from_tensorflow(layer, {"cluster_weights": torch.zeros(4, 3)})
    with pytest.raises(ValueError, match="no published TensorFlow layout"):
        from_tensorflow(nn.Identity(), {})


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="last, state or all"):
        LAYERS.build("lstm", dim=4, output="first")
    with pytest.raises(ValueError, match="after or before"):
        LAYERS.build("gru", dim=4, reset="never")
