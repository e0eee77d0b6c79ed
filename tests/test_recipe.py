"""Recipes: what is read, what is refused with which words, and that every shipped one builds."""

import pytest
import torch

from reeltag.build import build_model, check
from reeltag.errors import RecipeError, UnknownName
from reeltag.recipe import Recipe, list_recipes, load_recipe

SMALL = "model: {name: tsn_mini}\ntrain: {epochs: 2}\n"


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return to_file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: tsn_mini}\ntrain: {epoch: 2}", r"unknown key 'train.epoch'. Did you mean 'epochs'\?"),
        ("model: {name: tsn_mini}\ndata: {num_frames: 0}", r"data.num_frames: .*greater than or equal to 1, not 0"),
        ("model: {name: tsn_mini}\ndata: {sampling: dence}", r"'segments', 'dense' or 'uniform', not 'dence'"),
        ("train: {epochs: 1}", "the key 'model' is missing"),
        ("- 1", "a recipe is a mapping"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("model: {name: a, name: b}", "stands twice"),
        ("model: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("model: [", "not valid YAML"),
        ("model: {name: tsn_mini}\ndata: {crop: random, crop_px: 300}", "crop_px 300 is larger than short_side_px 256"),
        ("model: {name: tsn_mini}\ntrain: {schedule: step}", "needs milestones"),
        (
            "model: {name: tsn_mini}\nloss: {thresholds: clip}\ntest: {activation: softmax}",
            "r.yaml: loss.thresholds puts each label's decision at a sigmoid of 1/2; keep test.activation: sigmoid$",
        ),
    ],
)
def test_bad_recipes_say_value_allowed_and_next_step(write, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(text))


def test_overrides_change_fields_and_the_hash(write):
    path = write(SMALL)
    plain, changed = load_recipe(path), load_recipe(path, ["train.lr=0.5", "model.dropout=0.25", "data.flip=true"])
    assert (changed.train.lr, changed.model.options, changed.data.flip) == (0.5, {"dropout": 0.25}, True)
    assert plain.hash != changed.hash
    assert plain.hash == load_recipe(path, ["source.row=Table 2"]).hash  # where a number came from changes no number
    with pytest.raises(RecipeError, match="section.key=value"):
        load_recipe(path, ["train.lr"])


def test_yaml_round_trip_is_equal(write):
    recipe = load_recipe("demo/tsm_mini")
    assert load_recipe(write(recipe.to_yaml())) == recipe


def test_unknown_recipe_suggests_a_shipped_one():
    with pytest.raises(UnknownName, match="Did you mean 'demo/tsm_mini'"):
        load_recipe("demo/tsm_mni")


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_builds(name):
    recipe = load_recipe(name)
    check(recipe)
    with torch.device("meta"):
        model = build_model(recipe, 7)
    assert sum(p.numel() for p in model.parameters()) > 5_000  # a logistic regression is the smallest
    assert isinstance(recipe, Recipe)
    one_distribution = recipe.loss.name in ("softmax", "cross_entropy", "kl")
    assert recipe.test.activation == ("softmax" if one_distribution else "sigmoid")


def test_options_that_a_part_does_not_take_are_refused():
    with pytest.raises(RecipeError, match="model 'tsn_mini' has no option 'fraction'"):
        check(load_recipe("demo/tsn_mini", ["model.fraction=0.25"]))
    with pytest.raises(UnknownName, match="No loss is called 'bcee'. Did you mean 'bce'"):
        check(load_recipe("demo/tsn_mini", ["loss.name=bcee"]))
    with pytest.raises(UnknownName, match="No metric is called"):
        check(load_recipe("demo/tsn_mini", ["train.best_by=map"]))
