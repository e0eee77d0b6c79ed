"""Thresholds beside scores: what is returned, the gradient that stays out of the network, and the loss of both."""

import pytest
import torch

from reeltag.build import build_loss, build_model, check
from reeltag.errors import RecipeError
from reeltag.losses import LOSSES, SOFT_TARGETS
from reeltag.losses.label_weights import label_weights
from reeltag.losses.lsep import lsep, lsep_threshold
from reeltag.models.thresholded import ThresholdedModel
from reeltag.models.training_loss import training_loss
from reeltag.recipe import load_recipe

COUNTS = torch.tensor([4.0, 1.0, 10.0, 5.0])


def recipe(*overrides):
    small = ["model.backbone_options={widths: [4, 8]}", "model.dropout=0"]
    return load_recipe("demo/tsm_mini", [*small, *overrides])


def stirred(*overrides):
    model = build_model(recipe("loss.name=lsep", *overrides), 4)
    assert isinstance(model, ThresholdedModel)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", ["clip", "label"])
def test_training_sees_the_scores_and_evaluation_their_distance_from_the_thresholds(kind):
    model = stirred(f"loss.thresholds={kind}").eval()
    clip = torch.randn(3, 4, 3, 32, 32)
    scores = model.net(clip)
    model.training = True  # the outputs of training, with the norms of evaluation
    torch.testing.assert_close(model(clip), scores, rtol=0, atol=0)
    thresholds = model._kept.take()
    model.training = False
    torch.testing.assert_close(model(clip), scores - thresholds)
    assert thresholds.std(0).max() > 0 if kind == "clip" else torch.equal(thresholds[0], thresholds[1])


@pytest.mark.parametrize("kind", ["clip", "label"])
def test_the_loss_is_the_sum_of_both_and_each_trains_its_own(kind):
    targets = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])
    ignore = torch.zeros(2, 4, dtype=torch.bool)
    ignore[0, 2] = True
    clip = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))

    def gradients(*overrides):
        model = stirred(f"loss.thresholds={kind}", *overrides)
        scores = model(clip)
        thresholds = model._kept.take()
        model._kept.put(thresholds)
        loss = training_loss(model, scores, targets, lsep, ignore=ignore)
        learned = lsep_threshold(thresholds, targets, scores=scores, ignore=ignore)
        torch.testing.assert_close(loss, lsep(scores, targets, ignore=ignore) + model.weight * learned)
        loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    half, double = gradients("loss.threshold_weight=0.5"), gradients("loss.threshold_weight=1.0")
    for name, gradient in half.items():
        # What the thresholds' share of the loss does not reach, twice that share does not change.
        factor = 1 if name.startswith("net.") else 2
        torch.testing.assert_close(factor * gradient, double[name], rtol=1e-5, atol=1e-8)
    last = [name for name in half if name.startswith("thresholds")][-1]
    assert half[last].any()


def test_a_model_with_a_loss_of_its_own_keeps_it():
    from reeltag.build import create_model

    torch.manual_seed(0)
    net = create_model("frames_nextvlad_mixture", num_labels=3, feature_sizes=(8,), num_clusters=4, groups=2)
    model = ThresholdedModel(net, "label", weight=1e-9)
    inputs = model.example_input(2)
    targets = torch.tensor([[1, 0, 0], [0, 1, 1]])
    logits = model(*inputs)
    branches = net._branch_logits.take()
    net._branch_logits.put(branches)
    value = training_loss(model, logits, targets, lsep)
    net._branch_logits.put(branches)
    torch.testing.assert_close(value, net.training_loss(logits, targets, lsep))


def test_thresholds_learn_to_decide():
    """Fixed scores whose scale differs by label: trained thresholds find what lies between present and absent."""
    torch.manual_seed(0)
    targets = torch.randint(2, (200, 3))
    scores = torch.tensor([5.0, -3.0, 100.0]) + 2 * targets + 0.2 * torch.randn(200, 3)
    thresholds = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([thresholds], lr=1.0)
    for _ in range(400):
        optimizer.zero_grad()
        lsep_threshold(thresholds.expand(200, -1), targets, scores=scores).backward()
        optimizer.step()
    assert torch.equal(scores > thresholds, targets > 0)


def test_another_number_of_labels_draws_both_heads_anew():
    model = build_model(recipe("loss.name=lsep", "loss.thresholds=clip"), 4)
    model.reset_classifier(2)
    assert model(torch.randn(2, 4, 3, 32, 32)).shape == (2, 2)
    assert model.eval()(torch.randn(1, 4, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "power", "inverse"),
    [("count", 1, False), ("root_count", 0.5, False), ("inverse_count", 1, True), ("inverse_root_count", 0.5, True)],
)
def test_label_weights_come_from_the_counts_of_training(name, power, inverse):
    weight = label_weights(COUNTS, power=power, inverse=inverse)
    assert weight.tolist() == pytest.approx([(n / 5) ** (-power if inverse else power) for n in (4, 1, 10, 5)])
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(5, 4, generator=generator), torch.randint(2, (5, 4), generator=generator)
    loss = build_loss(recipe("loss.scale=160", f"loss.label_weights={name}"), COUNTS)
    torch.testing.assert_close(loss(logits, targets), LOSSES["bce"](logits, targets, scale=160, weight=weight))
    present = build_loss(recipe(f"loss.label_weights={name}", "loss.weigh=present"), COUNTS)
    torch.testing.assert_close(present(logits, targets), LOSSES["bce"](logits, targets, pos_weight=weight))


def test_losses_without_weights_refuse_them():
    with pytest.raises(RecipeError, match=r"loss 'focal' takes no weight of labels; bce and wlsep do"):
        check(recipe("loss.name=focal", "loss.label_weights=count"))
    with pytest.raises(RecipeError, match=r"loss 'wlsep' takes no weight of present labels; bce do"):
        check(recipe("loss.name=wlsep", "loss.label_weights=count", "loss.weigh=present"))
    with pytest.raises(RecipeError, match=r"set loss.thresholds=clip"):
        check(recipe("loss.name=lsep_threshold"))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"lsep_threshold"}))
def test_soft_targets_are_allowed_exactly_where_they_change_the_loss(name):
    """From 0.6 to 0.8 nothing crosses 1/2: a loss that rounds its targets cannot tell the difference."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.1]], dtype=torch.float64)

    def value(target):
        loss = LOSSES[name](logits, torch.tensor([[target, 0.0, 1.0, 0.0]], dtype=torch.float64), **options)
        return float(loss)

    drawn = "generator" in LOSSES.schema(name)
    options = {"generator": torch.Generator().manual_seed(0)} if drawn else {}
    first = value(0.6)
    if drawn:
        options["generator"].manual_seed(0)
    moves = abs(value(0.8) - first) > 1e-6
    # correlation_focal moves in its focal term alone; its pairs would be rounded.
    assert moves == (name in SOFT_TARGETS or name == "correlation_focal")
