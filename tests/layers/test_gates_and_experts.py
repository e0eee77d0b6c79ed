"""Context gating, gated linear units, experts and batch norm over frames, by hand."""

import pytest
import torch

from reeltag.layers import LAYERS
from reeltag.layers.frames import FrameBatchNorm


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("remove_diagonal", [True, False])
def test_context_gating_by_hand(batch_norm, remove_diagonal):
    torch.manual_seed(0)
    layer = LAYERS.build("context_gating", dim=5, batch_norm=batch_norm, remove_diagonal=remove_diagonal).eval()
    x = torch.randn(3, 5)
    weight = layer.linear.weight.clone()
    if remove_diagonal:
        weight.fill_diagonal_(0)
    scores = x @ weight.t()
    scores = scores / (1 + 1e-3) ** 0.5 if batch_norm else scores + layer.linear.bias
    torch.testing.assert_close(layer(x), x * scores.sigmoid())


def test_context_gating_from_another_vector():
    layer = LAYERS.build("context_gating", dim=5, batch_norm=False, source_dim=3)
    x, source = torch.randn(2, 5), torch.randn(2, 3)
    torch.testing.assert_close(layer(x, source=source), x * layer.linear(source).sigmoid())
    with pytest.raises(ValueError, match="square"):
        LAYERS.build("context_gating", dim=5, source_dim=3, remove_diagonal=True)


@pytest.mark.parametrize("name", ["context_gating", "glu"])
@pytest.mark.parametrize("training", [True, False])
def test_gates_over_frames_ignore_padding(name, training):
    torch.manual_seed(0)
    layer = LAYERS.build(name, dim=6).train(training)
    x, mask = torch.randn(2, 5, 6), torch.arange(5) < torch.tensor([[5], [2]])
    dirty = x.masked_fill(~mask.unsqueeze(-1), float("nan"))
    longer = torch.cat([dirty, torch.full((2, 7, 6), 9.0)], dim=1)
    out = layer(longer, torch.cat([mask, torch.zeros(2, 7, dtype=torch.bool)], dim=1))
    assert not out[:, 5:].any()
    assert not out[1, 2:].any()
    torch.testing.assert_close(out[:, :5], layer(dirty, mask))
    if not training:
        torch.testing.assert_close(out[1, :2], layer(x[1, :2].unsqueeze(0))[0])


def test_batch_norm_statistics_come_from_real_frames():
    torch.manual_seed(0)
    ours, theirs = FrameBatchNorm(4), torch.nn.BatchNorm1d(4, eps=1e-3)
    x, mask = torch.randn(3, 6, 4), torch.arange(6) < torch.tensor([[6], [3], [1]])
    out = ours(x.masked_fill(~mask.unsqueeze(-1), 1e4), mask)
    torch.testing.assert_close(out[mask], theirs(x[mask]))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert not out[~mask].any()


@pytest.mark.parametrize("num_experts", [1, 3, 4])
@pytest.mark.parametrize("score_gate", ["none", "scores", "input"])
def test_experts_equal_a_loop_over_labels(num_experts, score_gate):
    torch.manual_seed(0)
    layer = LAYERS.build("mixture_of_experts", dim=6, num_labels=5, num_experts=num_experts, score_gate=score_gate)
    layer = layer.double().eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    gates, experts = layer.gates(x), layer.experts(x).sigmoid()
    scores = torch.zeros(4, 5, dtype=torch.float64)
    for label in range(5):
        share = gates[:, label * (num_experts + 1) : (label + 1) * (num_experts + 1)].softmax(1)
        for m in range(num_experts):
            scores[:, label] += share[:, m] * experts[:, label * num_experts + m]
    if score_gate != "none":
        source = scores if score_gate == "scores" else x
        scores = scores * (layer.score_gate.linear(source) / (1 + 1e-3) ** 0.5).sigmoid()
    torch.testing.assert_close(layer(x).sigmoid(), scores)
    torch.testing.assert_close(layer(x), scores.logit())


def test_expert_logits_stay_exact_where_scores_round():
    layer = LAYERS.build("mixture_of_experts", dim=1, num_labels=1, num_experts=1)
    with torch.no_grad():
        layer.gates.weight.zero_()
        layer.experts.weight.fill_(1.0)
        layer.experts.bias.zero_()
    x = torch.tensor([[-200.0], [200.0]], requires_grad=True)
    logits = layer(x)
    # score = sigmoid(x) / 2: its logit is x - log 2 far below 0, and 0 far above
    torch.testing.assert_close(logits, torch.tensor([[-200.0 - 0.6931472], [0.0]]))
    logits.sum().backward()
    assert x.grad.isfinite().all()


def test_every_parameter_of_gates_and_experts_learns():
    torch.manual_seed(0)
    x, frames = torch.randn(8, 6), torch.randn(4, 5, 6)
    expert = {"dim": 6, "num_labels": 5}
    cases = [("context_gating", {"dim": 6}, x), ("glu", {"dim": 6}, frames), ("mixture_of_experts", expert, x)]
    cases += [("mixture_of_experts", expert | {"gate_rank": 3, "score_gate": "scores", "remove_diagonal": True}, x)]
    for name, options, given in cases:
        layer = LAYERS.build(name, **options)
        out = layer(given)
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(given)
        assert (half - out).abs().max() < 0.05 * out.abs().max()
        (out.square() * torch.linspace(1, 2, out.shape[-1])).sum().backward()
        assert all(p.grad.any() and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(("options", "words"), [({"num_experts": 0}, "at least 1"), ({"score_gate": "both"}, "none, ")])
def test_bad_expert_options(options, words):
    with pytest.raises(ValueError, match=words):
        LAYERS.build("mixture_of_experts", dim=6, num_labels=5, **options)
