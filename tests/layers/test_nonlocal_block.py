"""Non-local blocks by hand, masked and not, and what a masked one costs."""

import math

import pytest
import torch
from torch import nn

from reeltag.layers.local_attention import local_attention, reach_in_places
from reeltag.layers.nonlocal_block import AfterBlock, NonLocalBlock
from reeltag.layers.temporal_shift import ClipLength


def stirred(block):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return block.eval()


def places(size):
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij"), -1).flatten(0, 2)


def near(size, reach):
    """(N, N), True where two places are within reach, written out."""
    at = places(size)
    return ((at[:, None] - at[None]).abs() <= torch.tensor(reach)).all(-1)


@pytest.mark.parametrize("reach", [(0, 0, 0), (1, 1, 1), (1, 0, 2), (0, 2, 5), (3, 4, 5), (9, 9, 9)])
def test_local_attention_is_a_masked_softmax(reach):
    torch.manual_seed(0)
    size = (4, 5, 6)
    q, k, v = torch.randn(2, 3, *size), torch.randn(2, 3, *size), torch.randn(2, 7, *size)
    scores = q.flatten(2).transpose(1, 2) @ k.flatten(2)
    weights = (0.5 * scores).masked_fill(~near(size, reach), -math.inf).softmax(-1)
    expected = (weights @ v.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)
    torch.testing.assert_close(local_attention(q, k, v, reach, scale=0.5), expected, rtol=1e-5, atol=1e-5)


def test_local_attention_in_small_tiles_gives_the_same_values_and_gradients(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 8, 4, dtype=torch.float64, requires_grad=True)
    whole = local_attention(x, x, x, (1, 3, 1))
    (grad,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr("reeltag.layers.local_attention._TILE_PAIRS", 100)
    tiles = local_attention(x, x, x, (1, 3, 1))
    torch.testing.assert_close(tiles, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(tiles.square().sum(), x)[0], grad, rtol=1e-10, atol=1e-10)


def test_reach_counts_places_or_takes_shares_rounded_down():
    assert reach_in_places((1, 2, 3), (8, 14, 14)) == (1, 2, 3)
    assert reach_in_places((0.5, 0.25, 0.125), (8, 7, 28)) == (4, 1, 3)
    assert reach_in_places((1.0, 9, 0.0), (4, 4, 4)) == (3, 3, 0)
    for bad in ((1, 1), (-1, 0, 0), (1.5, 1, 1)):
        with pytest.raises(ValueError, match="reach is"):
            reach_in_places(bad, (4, 4, 4))


def test_a_masked_block_that_reaches_everything_is_the_plain_one():
    block = stirred(NonLocalBlock(6, pool="none", scale=True))
    masked = stirred(NonLocalBlock(6, pool="none", scale=True, reach=(1.0, 1.0, 1.0)))
    masked.load_state_dict(block.state_dict())
    x = torch.randn(2, 6, 3, 5, 4)
    torch.testing.assert_close(masked(x), block(x), rtol=1e-5, atol=1e-5)
    alone = stirred(NonLocalBlock(6, pool="none", reach=(0, 0, 0)))
    torch.testing.assert_close(alone.attend(x), alone.g(x), rtol=1e-5, atol=1e-5)  # each place sees itself


@pytest.mark.parametrize("pairing", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("pool", ["none", "before", "after"])
def test_every_block_starts_as_the_identity_and_every_parameter_learns(pairing, pool):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 2, 4, 4)
    for norm in (True, False):
        block = NonLocalBlock(4, pairing=pairing, pool=pool, norm=norm)
        torch.testing.assert_close(block.eval()(x), x, rtol=0, atol=0)
        stirred(block).train()(x).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in block.parameters())
        # A constant added to all of one query's scores changes no softmax: phi's bias is idle there.
        idle = {n for n, p in block.named_parameters() if p.grad.abs().max() < 1e-5}
        assert idle <= {"phi.bias", "out.bias", "g.bias"}, idle


def test_dot_product_by_hand():
    block = stirred(NonLocalBlock(4, pairing="dot_product", pool="none", norm=False))
    x = torch.randn(1, 4, 2, 2, 2)
    theta, phi, g = (layer(x).flatten(2)[0] for layer in (block.theta, block.phi, block.g))  # (D, N)
    y = torch.stack([sum((theta[:, i] @ phi[:, j]) * g[:, j] for j in range(8)) / 8 for i in range(8)], 1)
    expected = x + block.out(y.unflatten(1, (2, 2, 2)).unsqueeze(0))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_masked_block_at_6272_places_never_holds_the_matrix_of_pairs():
    """The largest tensor that is kept or made stays below a tenth of the (N, N) scores of the naive form."""
    size = (8, 28, 28)
    block = NonLocalBlock(8, pool="none", reach=(0.5, 0.25, 0.25))
    x = torch.randn(1, 8, *size, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, tuple | list) else (out,):
                if isinstance(each, torch.Tensor):
                    largest = max(largest, each.numel() * each.element_size())
            return out

    with Watch():
        block(x).sum().backward()
    assert largest <= 0.1 * 4 * 6272**2, f"{largest / 2**20:.1f} MiB"


def test_a_block_of_a_2d_network_sees_the_clip():
    clip = ClipLength()
    clip.num_frames = 3
    nl = stirred(NonLocalBlock(4, pool="none"))
    x = torch.randn(6, 4, 5, 5)
    wrapped = AfterBlock(nn.Identity(), nl, clip)
    expected = torch.cat([nl(part.transpose(0, 1).unsqueeze(0)).squeeze(0).transpose(0, 1) for part in x.split(3)])
    torch.testing.assert_close(wrapped(x), expected, rtol=1e-5, atol=1e-6)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="pairing is one of gaussian, embedded_gaussian"):
        NonLocalBlock(4, pairing="gauss")
    with pytest.raises(ValueError, match="a masked block has pool 'none' and a gaussian pairing"):
        NonLocalBlock(4, reach=(1, 1, 1))
    with pytest.raises(ValueError, match=r"takes \(B, C, T, H, W\)"):
        NonLocalBlock(4)(torch.zeros(2, 4, 5, 5))
