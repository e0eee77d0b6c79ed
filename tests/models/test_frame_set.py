"""Models on frame features: one contract over all, whole published models, and the head's parts by hand."""

import inspect
import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.errors import RecipeError
from reeltag.layers.published import from_tensorflow
from reeltag.losses import LOSSES
from reeltag.models import MODELS, list_models
from reeltag.models.training_loss import training_loss

RECORDS = Path(__file__).parents[1] / "parity" / "records"
NAMES = [name for name in list_models("frames_*") if "_nlg_" not in name]  # those are in test_nlg.py
SMALL = {"num_clusters": [4, 2], "groups": [4, 2], "num_heads": 4, "num_kernels": 6, "fc": 12, "num_layers": 2}
SNIPPETS = ("conv", "late", "slow", "local", "time_conv")
LENGTHS = torch.tensor([12, 5, 1])


def build(name, num_labels=5, **options):
    """A model of this name at sizes that a test can afford: streams of 16 and 8."""
    known = MODELS.schema(name)
    small = {key: value for key, value in SMALL.items() if key in known and known[key].default is not None}
    if "hidden" in known:
        small["hidden"] = (8, 6) if name.removeprefix("frames_") in SNIPPETS else 8
    quiet = {key: 0.0 for key in ("dropout", "pool_dropout") if key in known}
    return create_model(name, num_labels=num_labels, feature_sizes=(16, 8), **{**small, **quiet, **options})


def shaken(model):
    """Move every parameter and statistic off its start, where zeros could hide a fault."""
    torch.manual_seed(1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(
                    0.3 * torch.rand_like(value) if key.endswith("running_var") else 0.1 * torch.randn_like(value)
                )
    return model


def clips():
    x = torch.randn(3, 12, 24, generator=torch.Generator().manual_seed(2))
    return x, torch.arange(12) < LENGTHS.unsqueeze(1)


def test_all_names_of_the_tables_are_here():
    wanted = "mean moe max attention probe lstm blstm gru dbof dbow gated_dbow netfv netvlad netrvlad nextvlad"
    wanted += " nextvlad_mixture lstm_steps conv late slow local time_conv"
    assert {f"frames_{name}" for name in wanted.split()} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    model = shaken(build(name)).train()
    x, mask = clips()
    logits = model(x, mask)
    assert logits.shape == (3, 5)
    targets = (torch.rand(3, 5, generator=torch.Generator().manual_seed(4)) < 0.5).float()
    loss = training_loss(model, logits, targets, LOSSES["bce"])
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"parameters the loss does not reach: {idle}"
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        whole = model(x, mask)
        # Clips do not mix, and padding does not count. The tolerance is for sums of another length and order.
        alone = torch.cat([model(x[i : i + 1, :n]) for i, n in enumerate(LENGTHS)])
        torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
        longer = torch.cat([x.masked_fill(~mask.unsqueeze(-1), math.nan), torch.full((3, 7, 24), math.nan)], dim=1)
        dirty = model(longer, torch.cat([mask, torch.zeros(3, 7, dtype=torch.bool)], dim=1))
        torch.testing.assert_close(dirty, whole, rtol=1e-4, atol=1e-4)
        twin = build(name).eval()
        twin.load_state_dict(model.state_dict())
        torch.testing.assert_close(twin(x, mask), whole, rtol=0, atol=0)  # the state dict is the whole state
        vector = model.forward_head(model.forward_features(x), pre_logits=True)
        assert vector.shape == (3, model.num_features)
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x), rtol=0, atol=0)
    assert model.input_kind == "features"
    model.reset_classifier(3)
    assert model.num_labels == 3
    assert model(x, mask).shape == (3, 3)


@pytest.mark.parametrize(("experts", "gate", "tolerance"), [(0, "none", 1e-5), (2, "none", 1e-5), (3, "scores", 0.6)])
def test_set_bias_is_where_scores_start(experts, gate, tolerance):
    """Exact on an input of zeros; under a gate over the scores about, since three labels draw it from few weights."""
    torch.manual_seed(0)
    model = build("frames_mean", num_labels=3, experts=experts, score_gating=gate, fc=None).eval()
    prior = torch.tensor([0.3, 0.05, 0.001])
    model.set_bias(prior.logit())
    scores = model(torch.zeros(2, 4, 24)).sigmoid()
    torch.testing.assert_close(scores, prior.expand(2, 3), rtol=tolerance, atol=0)


def test_set_bias_of_a_softmax_per_frame():
    model = build("frames_lstm_steps", num_labels=3).eval()
    prior = torch.tensor([0.6, 0.3, 0.1])
    model.set_bias(prior.logit())
    scores = model.forward_head(torch.zeros(2, 4, 8)).sigmoid()
    torch.testing.assert_close(scores, prior.expand(2, 3), rtol=1e-5, atol=1e-6)


def test_baseline_1_by_hand():
    model = shaken(build("frames_mean")).eval()
    x, mask = clips()
    means = torch.stack([x[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    expected = means @ model.classifier.weight.t() + model.classifier.bias
    torch.testing.assert_close(model(x, mask), expected, rtol=1e-5, atol=1e-6)


def test_the_way_through_the_head_by_hand():
    """Pooling of each stream alone, then the fully connected layer, relu6, context gate, experts, gate over scores."""
    model = shaken(
        build("frames_netvlad", fc_norm=True, fc_activation="relu6", gating="cg", experts=2, score_gating="scores")
    ).eval()
    x, mask = clips()
    head = model.head
    with torch.no_grad():
        normed = model.pooling.input_norm(x, mask)
        rgb, sound = (
            model.pooling.poolings[0](normed[..., :16], mask),
            model.pooling.poolings[1](normed[..., 16:], mask),
        )
        assert (rgb.shape[1], sound.shape[1]) == (4 * 16, 2 * 8)
        hidden = head.fc_norm(torch.cat([rgb, sound], 1) @ head.fc.weight.t()).clamp(0, 6)
        gated = hidden * head.gate.norm(hidden @ head.gate.linear.weight.t()).sigmoid()
        gates = model.classifier.gates(gated).view(3, 5, 3).softmax(-1)
        opinions = model.classifier.experts(gated).view(3, 5, 2).sigmoid()
        scores = (gates[..., :2] * opinions).sum(-1)
        last = model.classifier.score_gate
        scores = scores * last.norm(scores @ last.linear.weight.t()).sigmoid()
        torch.testing.assert_close(model(x, mask).sigmoid(), scores, rtol=1e-5, atol=1e-6)


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text())["items"]


def generator(text):
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def drawn(entries):
    """The weights of a record: each drawn by the rule of its name, from a generator seeded with the name."""
    weights = {}
    for key, shape in entries:
        last, rng = key.split("/")[-1], generator(key)
        if last == "moving_mean" or (len(shape) == 1 and ("bias" in last or last == "beta")):
            weights[key] = 0.1 * torch.randn(shape, generator=rng)
        elif len(shape) == 1:
            weights[key] = 0.5 + torch.rand(shape, generator=rng)
        elif last == "covar_weights":
            weights[key] = 1 + 0.25 * torch.randn(shape, generator=rng)
        else:
            weights[key] = torch.randn(shape, generator=rng) * math.sqrt(2 / max(1, math.prod(shape[1:])))
    return weights


def scoped(weights, prefix):
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def load_willow(model, weights):
    """Every variable of a published late-fusion model into ours; each must find its place."""
    left = dict(weights)

    def take(layer, prefix="", *names):
        own = {k: v for k, v in scoped(left, prefix).items() if not names or k.split("/")[0] in names}
        from_tensorflow(layer, own)
        for key in own:
            del left[prefix + key]

    for stream, pool in zip(("video", "audio"), model.pooling.poolings, strict=True):
        scope = next(key.split("/")[0] for key in left if key.startswith(f"{stream}_"))
        take(pool, f"{scope}/")
    take(model.pooling.input_norm, "input_bn/")
    if model.head.fc_norm is not None:
        take(model.head.fc_norm, "hidden1_bn/")
    if model.head.gate is not None:
        take(model.head.gate, "", "gating_weights_2", "gating_bn")
    take(model.classifier, "", "gates", "experts", "gating_prob_weights", "gating_prob_bn")
    with torch.no_grad():
        model.head.fc.weight.copy_(left.pop("hidden1_weights").t())
        if model.head.fc.bias is not None:
            model.head.fc.bias.copy_(left.pop("hidden1_biases"))
    assert not left


LATE_FUSION = {
    "NetVLADModelLF": "frames_netvlad",
    "NetFVModelLF": "frames_netfv",
    "GatedDbofModelLF": "frames_gated_dbow",
    "SoftDbofModelLF": "frames_dbow",
}


@pytest.mark.parametrize("case", record("Youtube-8M-WILLOW__models_LF"))
def test_the_winning_models_of_youtube8m_2017_whole(case):
    item = record("Youtube-8M-WILLOW__models_LF")[case]
    weights = drawn(item["weights"])
    clusters = [value.shape[1] for key, value in weights.items() if key.endswith("/cluster_weights")]
    relu = "hidden1_biases" not in weights
    model = create_model(
        "frames_netrvlad" if "lightvlad" in case else LATE_FUSION[case.split("|")[0]],
        num_labels=7,
        num_clusters=clusters,
        fc=8,
        fc_norm=relu,
        fc_activation="relu6" if relu else "none",
        gating="cg" if "gating_weights_2" in weights else "none",
        score_gating="scores" if "gating_prob_weights" in weights else "none",
    ).eval()
    load_willow(model, weights)
    frames = torch.randn(2, 4, 1152, generator=generator("input:willow:frames"))
    with torch.no_grad():
        descriptor, scores = model.forward_features(frames), model(frames).sigmoid()
    theirs = torch.tensor(item["out"]["out"]["values"]).view(2, 7)
    scale = theirs.square().mean().sqrt()
    assert (scores - theirs).abs().max() <= 1e-5 * scale
    whole = item["out"]["descriptor_before_hidden1"]
    flat = descriptor.flatten()
    ours = flat if "values" in whole else torch.cat([flat[:64], flat[-8:]])
    expected = torch.tensor(whole.get("values") or whole["first"] + whole["last8"])
    assert (ours - expected).abs().max() <= 1e-5 * whole["l2"] / math.sqrt(flat.numel())


def test_squeeze_gate_by_hand():
    model = shaken(build("frames_nextvlad", fc=16, gating_reduction=4)).eval()
    gate, x = model.head.gate, torch.randn(3, 16, generator=generator("se"))
    norm = gate.norm
    narrow = (x @ gate.squeeze.weight.t() - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
    narrow = (narrow * norm.weight + norm.bias).relu()
    assert narrow.shape == (3, 4)
    torch.testing.assert_close(gate(x), x * (narrow @ gate.excite.weight.t()).sigmoid(), rtol=1e-5, atol=1e-6)


def test_mixture_mixes_logits_and_adds_the_losses_of_its_branches():
    model = shaken(build("frames_nextvlad_mixture", temperature=2.0, distillation=4.0)).train()
    x, mask = clips()
    logits = model(x, mask).detach()
    branches = model._branch_logits._value.detach()
    targets = (torch.rand(3, 5, generator=generator("targets")) < 0.5).float()
    total = training_loss(model, logits, targets, LOSSES["bce"])
    bce = nn.functional.binary_cross_entropy_with_logits
    divergence = 0.0
    for clip in range(3):
        p = (logits[clip].double() / 2).softmax(-1)
        for branch in branches[clip].double():
            q = (branch / 2).softmax(-1)
            divergence += sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)) / 3
    expected = float(bce(logits, targets)) + sum(float(bce(b, targets)) for b in branches.unbind(1)) + 4.0 * divergence
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="there was none since the last"):
        training_loss(model, logits, targets, LOSSES["bce"])
    model.eval()
    with torch.no_grad():
        mean = torch.stack([x[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
        shares = model.shares(model.mean_norm(mean)).softmax(-1)
        parts = zip(model.poolings, model.heads, model.classifier, strict=True)
        each = torch.stack([classifier(head(pool(x, mask))) for pool, head, classifier in parts], 1)
        torch.testing.assert_close(model(x, mask), (shares.unsqueeze(-1) * each).sum(1), rtol=1e-5, atol=1e-5)
    assert model._branch_logits._value is None  # evaluation keeps nothing


@pytest.mark.parametrize("loss", ["bce", "softmax", "lsep"])
def test_loss_per_frame_is_weighed_from_0_to_1(loss):
    model = shaken(build("frames_lstm_steps")).train()
    x, mask = clips()
    logits = model(x, mask)
    frames = model._steps._value[0].detach()
    targets = (torch.rand(3, 5, generator=generator("targets")) < 0.5).float()
    total = training_loss(model, logits, targets, LOSSES[loss])
    expected = 0.0
    for clip, length in enumerate(LENGTHS.tolist()):
        gains = [t / (length - 1) if length > 1 else 1.0 for t in range(length)]
        each = [float(LOSSES[loss](frames[clip, t, None], targets[clip, None])) for t in range(length)]
        expected += sum(g * e for g, e in zip(gains, each, strict=True)) / sum(gains) / 3
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    scores = torch.stack([
        sum(t / max(n - 1, 1) * frames[i, t].softmax(-1) for t in range(n)) / (sum(range(n)) / max(n - 1, 1))
        if n > 1 else frames[i, 0].softmax(-1)
        for i, n in enumerate(LENGTHS.tolist())
    ])  # fmt: skip
    torch.testing.assert_close(logits.detach().sigmoid(), scores, rtol=1e-4, atol=1e-5)


def test_other_models_are_trained_by_the_loss_alone():
    model, targets = build("frames_mean"), torch.ones(3, 5)
    logits = model(*clips())
    ignore = torch.zeros(3, 5, dtype=torch.bool)
    assert training_loss(model, logits, targets, LOSSES["bce"], ignore=ignore) == LOSSES["bce"](logits, targets)


def test_options_are_those_of_the_layer_and_of_the_head():
    options = MODELS.schema("frames_netfv")
    assert {"num_clusters", "coupled", "gating", "score_gating", "input_norm", "feature_sizes"} <= set(options)
    assert options["feature_sizes"].default == (1024, 128)
    assert MODELS.schema("frames_lstm")["dropout"].default == 0.0  # of the head; the layer's own is left out
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in options.values())


def test_time_domain_convolution_reads_maps():
    torch.manual_seed(0)
    model = create_model(
        "frames_time_conv", num_labels=3, feature_sizes=[5 * 6], map_px=[2, 3], num_kernels=4, hidden=(8,)
    ).eval()
    layer = model.pooling.poolings[0]
    assert layer.conv.weight.shape == (4, 5, 10, 3, 3)
    maps = torch.randn(2, 20, 5, 2, 3)
    torch.testing.assert_close(model.forward_features(maps.flatten(2)), layer(maps), rtol=0, atol=0)
    with pytest.raises(RecipeError, match=r"features of 32 values are no maps of \[2, 3\]: 6 must divide them"):
        create_model("frames_time_conv", num_labels=3, feature_sizes=[32], map_px=[2, 3])


def test_bad_calls_are_named():
    with pytest.raises(RecipeError, match="num_clusters is one number or one per stream; got .* for 2 streams"):
        create_model("frames_netvlad", num_labels=3, num_clusters=[4, 2, 1])
    with pytest.raises(RecipeError, match="has no option 'num_cluster'. Did you mean 'num_clusters'"):
        create_model("frames_netvlad", num_labels=3, num_cluster=4)
    with pytest.raises(RecipeError, match="gates the scores of experts, and experts is 0"):
        create_model("frames_mean", num_labels=3, score_gating="scores")
    with pytest.raises(RecipeError, match="output='all' gives a vector per frame"):
        create_model("frames_lstm", num_labels=3, output="all", hidden=4)
    with pytest.raises(RecipeError, match="dropout is a probability in"):
        create_model("frames_mean", num_labels=3, dropout=1.0)
    with pytest.raises(RecipeError, match="a mixture needs 2 branches or more"):
        build("frames_nextvlad_mixture", num_branches=1)
    with pytest.raises(ValueError, match=r"features are \(B, T, 24\) .* got \(2, 3, 25\)"):
        build("frames_mean")(torch.zeros(2, 3, 25))
