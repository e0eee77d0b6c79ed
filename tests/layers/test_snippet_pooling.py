"""The poolings of Beyond Short Snippets on clips of any length, and attention over frames, by hand."""

import pytest
import torch
from torch import nn

from reeltag.layers import LAYERS
from reeltag.layers.snippet_pooling import frame_gain, fuse_frames, windows

MAPS = ["conv_pooling", "late_pooling", "slow_pooling", "local_pooling"]


@pytest.mark.parametrize(("real", "starts"), [(3, [0]), (10, [0]), (14, [0]), (15, [0, 5]), (20, [0, 5, 10])])
def test_windows_hold_real_frames_alone(real, starts):
    x = torch.arange(1.0, 21).view(1, 20, 1)
    cut, held, counts = windows(x, torch.arange(20).unsqueeze(0) < real, 10, 5)
    assert counts[0].nonzero().flatten().tolist() == [s // 5 for s in starts]
    for start in starts:
        expected = list(range(start + 1, min(start + 10, real) + 1))
        assert cut[0, start // 5, 0][held[0, start // 5]].tolist() == expected


@pytest.mark.parametrize("name", [*MAPS, "time_conv_pooling"])
@pytest.mark.parametrize("extra", [1, 7, 300])
def test_maps_ignore_padding(name, extra):
    torch.manual_seed(0)
    sizes = {"dim": 3, "map_px": (2, 4), "num_kernels": 5} if name == "time_conv_pooling" else {"dim": 24}
    layer = LAYERS.build(name, **sizes, hidden=(8, 6)).eval()
    x, mask = torch.randn(2, 16, 3, 2, 4), torch.arange(16) < torch.tensor([[16], [4]])
    garbage = torch.full((2, extra, 3, 2, 4), float("nan"))
    with torch.no_grad():
        clean = layer(x, mask)
        dirty = layer(torch.cat([x, garbage], 1), torch.cat([mask, torch.zeros(2, extra, dtype=torch.bool)], 1))
        torch.testing.assert_close(dirty, clean)
        torch.testing.assert_close(layer(x[1:, :4]), clean[1:])


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_vectors_flattened(name):
    torch.manual_seed(0)
    layer, x = LAYERS.build(name, dim=24, hidden=(8, 6)), torch.randn(2, 16, 3, 2, 4)
    torch.testing.assert_close(layer(x), layer(x.flatten(2)))


def test_time_convolution_of_vectors_equals_a_1d_convolution():
    torch.manual_seed(0)
    layer = LAYERS.build("time_conv_pooling", dim=6, hidden=(8,), num_kernels=5, window=4, stride=2)
    x = torch.randn(2, 9, 6)
    weight = layer.conv.weight.flatten(2)
    responses = nn.functional.conv1d(x.transpose(1, 2), weight, layer.conv.bias, stride=2).relu().amax(2)
    torch.testing.assert_close(layer(x), layer.layers(responses))


def test_local_pooling_averages_towers_or_puts_them_side_by_side():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 20, 6), torch.arange(20) < torch.tensor([[20], [15]])
    mean = LAYERS.build("local_pooling", dim=6, hidden=(8,))
    side = LAYERS.build("local_pooling", dim=6, hidden=(8,), num_windows=4)
    side.load_state_dict(mean.state_dict())
    towers = mean.towers(x, mask)[0]
    torch.testing.assert_close(mean(x, mask), torch.stack([towers[0].mean(0), towers[1, :2].mean(0)]))
    beside = side(x, mask).unflatten(1, (4, 8))
    torch.testing.assert_close(beside[0, :3], towers[0])
    torch.testing.assert_close(beside[1, :2], towers[1, :2])
    assert not beside[0, 3:].any()
    assert not beside[1, 2:].any()


def test_gain_rises_over_the_real_frames():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    expected = [[0, 0.25, 0.5, 0.75, 1], [0, 0, 0.5, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(frame_gain(mask), torch.tensor(expected))


@pytest.mark.parametrize(
    ("how", "expected"),
    [("last", 4.0), ("max", 4.0), ("sum", 7.0), ("mean", 7 / 3), ("gain_sum", 5.0), ("gain_mean", 10 / 3)],
)
def test_fusions_by_hand(how, expected):
    scores = torch.tensor([1.0, 99.0, 2.0, 4.0]).view(1, 4, 1)
    mask = torch.tensor([[True, False, True, True]])
    assert fuse_frames(scores, mask, how).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="gain_mean"):
        fuse_frames(scores, mask, "median")


def test_per_frame_scores_are_shares():
    torch.manual_seed(0)
    layer = LAYERS.build("lstm_per_frame", dim=4, num_labels=3, hidden=6, num_layers=5)
    assert len(list(layer.lstm.rnn.parameters())) == 20
    x, mask = torch.randn(2, 7, 4), torch.arange(7) < torch.tensor([[7], [2]])
    torch.testing.assert_close(layer(x, mask).sum(1), torch.ones(2))
    each = layer.frame_logits(x, mask).softmax(-1)
    torch.testing.assert_close(layer(x, mask)[1], each[1, 1])  # of two frames the first has gain 0


def test_mean_and_maximum_by_hand():
    x = torch.tensor([[[-3.0, 1.0], [-1.0, 5.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert LAYERS.build("mean_pool", dim=2)(x, mask).tolist() == [[-2, 3]]
    assert LAYERS.build("max_pool", dim=2)(x, mask).tolist() == [[-1, 5]]


def test_attention_weights_are_a_softmax_over_real_frames():
    torch.manual_seed(0)
    layer = LAYERS.build("attention_pool", dim=4, hidden=3, gated=True)
    x, mask = torch.randn(1, 5, 4), torch.tensor([[True, True, False, True, False]])
    inner = (layer.hidden(x).tanh() * layer.gate(x).sigmoid()) @ layer.score.weight[0]
    shares = inner[0, [0, 1, 3]].softmax(0)
    torch.testing.assert_close(layer.weights(x, mask)[0, [0, 1, 3]], shares)
    torch.testing.assert_close(layer(x, mask)[0], shares @ x[0, [0, 1, 3]])


def test_attentive_probe_equals_multihead_attention():
    torch.manual_seed(0)
    layer = LAYERS.build("attentive_probe", dim=8, num_queries=2, num_heads=4, mlp_ratio=0)
    theirs = nn.MultiheadAttention(8, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.to_query.weight, layer.to_key.weight, layer.to_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([layer.to_query.bias, torch.zeros(8), layer.to_value.bias]))
    theirs.out_proj.load_state_dict(layer.project.state_dict())
    x, mask = torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([[5], [3], [1]])
    queries, keys = layer.queries.expand(3, -1, -1), layer.frame_norm(x)
    expected = queries + theirs(queries, keys, keys, key_padding_mask=~mask)[0]
    torch.testing.assert_close(layer(x, mask), expected.flatten(1))
    with pytest.raises(ValueError, match="divide dim=8, got 3"):
        LAYERS.build("attentive_probe", dim=8, num_heads=3)
