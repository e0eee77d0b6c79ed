"""What is set on a model before it trains."""

import pytest
import torch
from torch import nn

from reeltag.build import build_model, create_model
from reeltag.engine.protocol import prepare_model
from reeltag.errors import RecipeError
from reeltag.recipe import load_recipe
from reeltag.sections import TrainSection


@pytest.fixture
def model():
    return create_model("tsm_mini", num_labels=3, backbone_options={"widths": (4, 8)})


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_fixed_leaves_the_head_and_stops_every_norm(model):
    prepare_model(model, TrainSection(freeze="all_but_head"))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"classifier.weight", "classifier.bias"}
    model.eval()
    model.train()  # as after a validation
    assert not any(norm.training for norm in norms(model))
    assert model.dropout.training


def test_fixed_trains_the_threshold_head_too():
    recipe = load_recipe("demo/tsm_mini", ["loss.name=lsep", "loss.thresholds=label"])
    model = prepare_model(build_model(recipe, 3), TrainSection(freeze="all_but_head"))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"net.classifier.weight", "net.classifier.bias", "thresholds.values"}


def test_partial_norms_spare_the_first(model):
    prepare_model(model, TrainSection(freeze_norms="partial"))
    assert [norm.training for norm in norms(model)] == [True] + [False] * (len(norms(model)) - 1)
    assert [norm.weight.requires_grad for norm in norms(model)][:2] == [True, False]
    assert model.classifier.weight.requires_grad


def test_recomputed_blocks_give_the_same_gradient(model):
    torch.manual_seed(0)
    clip = torch.randn(2, 4, 3, 32, 32)
    model.dropout.p = 0.0

    def gradient():
        model.zero_grad()
        model(clip).square().sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    plain = gradient()
    prepare_model(model, TrainSection(gradient_checkpointing=True))
    assert torch.equal(gradient(), plain)


def test_what_cannot_be_recomputed_is_named(model):
    model.blocks = list
    with pytest.raises(RecipeError, match=r"train.gradient_checkpointing: .* has no blocks to recompute"):
        prepare_model(model, TrainSection(gradient_checkpointing=True))


def test_norms_are_synchronized_for_several_processes_on_gpus_alone(model):
    train, keys = TrainSection(sync_norms=True), list(model.state_dict())
    assert prepare_model(model, train, processes=1) is model
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms(model))
    with pytest.raises(RecipeError, match=r"train.sync_norms needs GPUs, and this is a cpu"):
        prepare_model(model, train, processes=2, device="cpu")
    converted = prepare_model(model, train, processes=2, device="cuda")
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms(converted))
    assert list(converted.state_dict()) == keys
