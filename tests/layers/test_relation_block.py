"""The relation-driven block by hand, and its start as a masked non-local block."""

import pytest
import torch

from reeltag.layers.nonlocal_block import NonLocalBlock
from reeltag.layers.relation_block import RelationBlock


def stir(module):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module.eval()


@pytest.mark.parametrize(("reach", "field"), [((1, 1, 1), (2, 2, 2)), ((0, 2, 1), (1, 3, 2))])
def test_the_attention_form_starts_as_the_masked_non_local_block(reach, field):
    masked = stir(NonLocalBlock(6, pool="none", reach=reach, scale=True))
    block = RelationBlock(6, reach=reach, field=field, scale=True).eval()
    left = block.load_state_dict(masked.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert all(key.startswith("relation.") for key in left.missing_keys)
    x = torch.randn(2, 6, 4, 6, 5)
    torch.testing.assert_close(block(x), masked(x), rtol=0, atol=1e-6)
    stir(block.relation)
    assert (block(x) - masked(x)).abs().max() > 1e-2


def test_the_printed_form_is_a_weighted_sum_of_neighbours():
    block = stir(RelationBlock(4, reach=(1, 0, 1), field=(2, 1, 2), form="printed"))
    x = torch.randn(1, 4, 3, 2, 4)
    r, g, y = block.relations(x)[0], block.g(x)[0], block.attend(x)[0]
    assert r.shape == (9, 3, 2, 4)
    for t, h, w in [(0, 0, 0), (1, 1, 2), (2, 0, 3)]:
        expected = torch.zeros(2)
        for index, (dt, dw) in enumerate((dt, dw) for dt in (-1, 0, 1) for dw in (-1, 0, 1)):
            if 0 <= t + dt < 3 and 0 <= w + dw < 4:
                expected += r[index, t, h, w] * g[:, t + dt, h, w + dw]
        torch.testing.assert_close(y[:, t, h, w], expected, rtol=1e-5, atol=1e-6)
    assert not hasattr(block, "theta")


@pytest.mark.parametrize("form", ["printed", "attention"])
def test_the_block_starts_as_the_identity_and_learns(form):
    torch.manual_seed(0)
    block = RelationBlock(4, form=form)
    x = torch.randn(2, 4, 3, 4, 4)
    torch.testing.assert_close(block.eval()(x), x, rtol=0, atol=0)
    stir(block).train()(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())
    assert all(p.grad.any() for n, p in block.named_parameters() if n.startswith(("relation", "g.w")))


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="must be wider than the reach"):
        RelationBlock(4, reach=(1, 1, 1), field=(2, 1, 2))
    with pytest.raises(ValueError, match="form is 'printed' or 'attention'"):
        RelationBlock(4, form="eq7")
