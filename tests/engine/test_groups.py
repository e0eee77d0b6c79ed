"""Parameter groups by hand: what decays, and by what each rate differs."""

import pytest
import torch
from torch import nn

from reeltag.build import create_model
from reeltag.engine.groups import layer_numbers, parameter_groups
from reeltag.engine.optim import build_optimizer, set_rate
from reeltag.errors import RecipeError
from reeltag.sections import TrainSection


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("tsm_mini", num_labels=3, backbone_options={"widths": (4, 8)})


def scales(model, **keys):
    groups = parameter_groups(model, TrainSection(**keys))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_every_trainable_parameter_is_in_one_group(model):
    model.backbone.net.stem[0].weight.requires_grad_(False)
    found = scales(model, head_lr=5, bias_lr=2, layer_decay=0.5)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_groups_of_tsn(model):
    """Weights 1, biases 2 without decay, norms 1 without decay; TSM's classifier 5 and 10; flow's first kernel 5."""
    found = scales(model, head_lr=5, bias_lr=2, first_conv_lr=5, weight_decay=0.1)
    assert found["backbone.net.stem.0.weight"] == (5, 0.1)
    assert found["backbone.net.blocks.0.conv2.weight"] == (1, 0.1)
    assert found["backbone.net.blocks.0.bn1.weight"] == (1, 0)
    assert found["backbone.net.blocks.0.bn1.bias"] == (1, 0)
    assert found["classifier.weight"] == (5, 0.1)
    assert found["classifier.bias"] == (10, 0)


def test_layers_are_counted_from_the_stem_to_the_head(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    numbers = {names[key]: layer for key, layer in layer_numbers(model).items()}
    assert numbers["backbone.net.stem.0.weight"] == 0
    assert numbers["backbone.net.blocks.0.conv1.net.weight"] == 1
    assert numbers["backbone.net.blocks.1.downsample.1.bias"] == 2
    assert numbers["classifier.weight"] == 3
    found = scales(model, layer_decay=0.5)
    assert [found[name][0] for name in ("backbone.net.stem.0.weight", "classifier.bias")] == [0.125, 1]


def test_layers_of_transformers_and_of_stages():
    with torch.device("meta"):
        vit, convnext = (
            create_model("tsn_vit_tiny_patch16_224", num_labels=3),
            create_model("tsn_convnext_atto", num_labels=3),
        )
    of = {name: layer_numbers(vit)[id(parameter)] for name, parameter in vit.named_parameters()}
    net = "backbone.net."
    assert [of[net + name] for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")] == [0, 0, 0]
    assert [of[net + name] for name in ("blocks.0.attn.qkv.weight", "blocks.11.mlp.fc2.bias")] == [1, 12]
    assert (of[net + "norm.weight"], of["classifier.weight"]) == (13, 13)
    of = {name: layer_numbers(convnext)[id(parameter)] for name, parameter in convnext.named_parameters()}
    assert of[net + "stages.1.downsample.1.weight"] == of[net + "stages.0.blocks.1.mlp.fc1.weight"] == 2
    assert of[net + "stages.1.blocks.0.mlp.fc1.weight"] == 3


def test_set_rate_multiplies_by_the_group(model):
    optimizer = build_optimizer(model, TrainSection(head_lr=5))
    set_rate(optimizer, 0.2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.classifier.weight)] == pytest.approx(1.0)
    assert rates[id(model.backbone.net.stem[0].weight)] == pytest.approx(0.2)


def test_what_a_model_has_not_is_named(model):
    plain = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RecipeError, match=r"no blocks to count layers by; leave out train.layer_decay"):
        parameter_groups(plain, TrainSection(layer_decay=0.9))
    with pytest.raises(RecipeError, match=r"no classifier; leave out train.head_lr"):
        parameter_groups(plain, TrainSection(head_lr=2))
    with pytest.raises(RecipeError, match="no parameter of the model is left to train"):
        parameter_groups(model.requires_grad_(False), TrainSection())
