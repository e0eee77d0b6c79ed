"""TRN's relations: the sum by hand, what training draws, and the three evaluations."""

from itertools import combinations

import pytest
import torch

from reeltag.layers.temporal_relation import TemporalRelation


def logits_over(layer, x, relations):
    """The paper's double sum, one relation at a time."""
    total = 0
    for index, some in enumerate(relations):
        for frames in some:
            units = layer.hidden[index](x[:, list(frames)].relu().flatten(1)).relu()
            total = total + layer.out[index](units)
    return total


def every_relation(num_frames):
    return [list(combinations(range(num_frames), scale)) for scale in range(num_frames, 1, -1)]


def test_first_is_the_sum_over_the_first_three_relations_of_each_scale():
    torch.manual_seed(0)
    layer = TemporalRelation(6, 5, 3, hidden=8, evaluation="first").eval()
    x = torch.randn(2, 5, 6)
    expected = logits_over(layer, x, [some[:3] for some in every_relation(5)])
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_mean_is_the_expectation_of_what_training_draws():
    torch.manual_seed(0)
    layer = TemporalRelation(6, 5, 3, hidden=8).eval()
    x = torch.randn(2, 5, 6)
    expected = 0
    for index, some in enumerate(every_relation(5)):
        none = [[] for _ in range(index)]
        expected = expected + logits_over(layer, x, [*none, some]) * min(3, len(some)) / len(some)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    # 500 draws: the mean's standard error, not rounding, sets the tolerance.
    layer.train()
    layer.generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        draws = torch.stack([layer(x) for _ in range(500)])
    error = draws.std(0) / 500**0.5
    assert ((draws.mean(0) - expected).abs() < 5 * error + 1e-6).all()
    assert draws.std(0).min() > 0


def test_training_draws_different_relations_and_follows_its_generator():
    torch.manual_seed(0)
    layer = TemporalRelation(6, 8, 3, hidden=8)
    for index, scale in enumerate(layer.scales):
        drawn = layer._draw(index, None)
        assert drawn.shape == (layer.counts[index], scale)
        assert len({tuple(row.tolist()) for row in drawn}) == len(drawn)
        assert (drawn.diff(dim=1) > 0).all()
        assert drawn.max() < 8
    x = torch.randn(2, 8, 6)
    layer.generator = torch.Generator().manual_seed(3)
    one, two = layer(x), layer(x)
    layer.generator.manual_seed(3)
    assert torch.equal(layer(x), one)
    assert not torch.allclose(one, two)


def test_fixed_and_given_relations_stay_the_same():
    torch.manual_seed(0)
    layer = TemporalRelation(6, 5, 3, hidden=8, evaluation="fixed", seed=4).eval()
    twin = TemporalRelation(6, 5, 3, hidden=8, evaluation="fixed", seed=4).eval()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 6)
    assert torch.equal(layer(x), twin(x))
    given = [some[-3:] for some in every_relation(5)]
    layer.fix_relations(given)
    torch.testing.assert_close(layer(x), logits_over(layer, x, given), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="relations must have the shapes"):
        layer.fix_relations(given[1:])


def test_one_scale_is_one_network_on_all_frames():
    torch.manual_seed(0)
    layer = TemporalRelation(4, 6, 2, hidden=8, scales=(6,))
    x = torch.randn(3, 6, 4)
    expected = layer.out[0](layer.hidden[0](x.relu().flatten(1)).relu())
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-5, atol=1e-6)


def test_bias_prior_comes_out_where_the_networks_give_nothing():
    layer = TemporalRelation(4, 5, 3, hidden=8).eval()
    with torch.no_grad():
        for linear in (*layer.hidden, *layer.out):
            linear.weight.zero_()
    layer.set_bias(torch.tensor([-1.0, 0.5, 2.0]))
    torch.testing.assert_close(layer(torch.randn(2, 5, 4))[1], torch.tensor([-1.0, 0.5, 2.0]))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"scales must lie in 1..4"):
        TemporalRelation(4, 4, 2, scales=(5,))
    with pytest.raises(ValueError, match="at most 16 frames, got 20; take evaluation='fixed'"):
        TemporalRelation(4, 20, 2)
    with pytest.raises(ValueError, match=r"relations take \(B, 4, 6\) frames, got \(2, 5, 6\)"):
        TemporalRelation(6, 4, 2)(torch.zeros(2, 5, 6))
    assert TemporalRelation(4, 20, 2, evaluation="fixed").eval()(torch.zeros(1, 20, 4)).shape == (1, 2)
