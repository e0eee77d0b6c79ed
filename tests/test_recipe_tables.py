"""The rows of the documents' tables on frame features and on sound: each has a recipe with the figure of its row."""

import pytest
import torch

from reeltag.build import build_model
from reeltag.data.sound_views import test_samples, training_samples
from reeltag.inference.ensemble import Ensemble, list_ensembles
from reeltag.inputs import modalities_of
from reeltag.recipe import list_recipes, load_recipe

GATES = {"netvlad_no_gating": 82.2, "netvlad_cg_pooling": 82.7, "netvlad_glu_cg": 82.7, "netvlad_cg_both": 83.0}
METHODS = {
    "baseline1_mean_logistic": 71.4,
    "baseline2_mean_moe": 74.1,
    "lstm": 81.7,
    "gru": 82.0,
    "soft_dbow_4096": 81.6,
    "netfv_128": 82.2,
    "netvlad_256": 82.4,
    "gated_soft_dbow_4096": 82.0,
    "gated_netfv_128": 83.0,
    "gated_netrvlad_256": 83.1,
    "gated_netvlad_256": 83.2,
}
NON_LOCAL_GATING = {
    "nlg_none": 0.45770,
    "nlg_blstm": 0.46304,
    "nlg_lstm": 0.43770,
    "nlg_nextvlad": 0.49452,
    "nlg_nextvlad_med": 0.50102,
    "nlg_nextvlad_big": 0.50879,
}
SPORTS = {  # clip Hit@1, Hit@1, Hit@5
    "conv_pooling": (68.7, 71.1, 89.3),
    "late_pooling": (65.1, 67.5, 87.2),
    "slow_pooling": (67.1, 69.7, 88.4),
    "local_pooling": (68.1, 70.4, 88.9),
    "time_domain_convolution": (64.2, 67.2, 87.2),
    "conv_pooling_30": (66.0, 71.7, 90.4),
    "conv_pooling_120": (70.8, 72.3, 90.8),
    "lstm_30": (None, 72.1, 90.4),
    "lstm_flow_30": (None, 59.7, 81.4),
    "conv_pooling_flow_30": (None, 44.5, 70.4),
}
QINIU_SOUND = {
    "mfcc_se_resnet50_kinetics": 7.73,
    "mfcc_se_resnet50_moments": 16.8,
    "vggish_kinetics": 7.83,
    "vggish_moments": 17.12,
    "mfcc_resnet50_kinetics": (),  # named in the text, without a figure
    "mfcc_resnet50_moments": (),
}
ALIBABA_SOUND_AND_FLOW = {
    "m34_res": 31.8,
    "envnet_v2": 30.2,
    "logmel_resnet34": 30.2,
    "logmel_vgg16": 30.1,
    "p3d_resnet101_flow": 59.1,
    "p3d_inception_v4_flow": 54.5,
    "p3d_inception_resnet_v2_flow": 55.7,
}
ENSEMBLES = {
    "qiniu2018/audio_kinetics": (8.83,),
    "qiniu2018/audio_moments": (19.02,),
    "qiniu2018/final_kinetics": (83.5, 96.8),
    "qiniu2018/final_moments": (35.81, 62.59),
    "alibaba2019/rgb": (66.2,),
    "alibaba2019/flow": (59.2,),
    "alibaba2019/audio": (35.5,),
    "alibaba2019/all": (67.0,),
    "rippleai2019/table1": (0.78371,),
    "rippleai2019/table2_three": (0.47,),
    "rippleai2019/table2_all": (0.4857,),
    "sensetime2019/slowfast": (66.71, 59.80),
    "sensetime2019/all": (67.22, 60.77),
}


@pytest.mark.parametrize(
    ("folder", "figures"),
    [
        ("willow2017", GATES | METHODS),
        ("shortsnippets2015", SPORTS),
        ("rippleai2019", NON_LOCAL_GATING | {"envnet_v2": ()}),
        ("qiniu2018", QINIU_SOUND),
        ("alibaba2019", ALIBABA_SOUND_AND_FLOW),
    ],
)
def test_every_row_has_its_figure(folder, figures):
    shipped = {name.split("/")[1] for name in list_recipes() if name.startswith(f"{folder}/")}
    assert set(figures) <= shipped
    for name, expected in figures.items():
        found = load_recipe(f"{folder}/{name}").source
        values = [value for value in (expected if isinstance(expected, tuple) else (expected,)) if value is not None]
        assert list(found.reported.values()) == values, name
        assert found.assumed, f"{name} says nothing of what its paper leaves open"


def test_gates_are_what_tells_the_rows_of_the_first_table_apart():
    gates = {name: load_recipe(f"willow2017/{name}").model.options for name in GATES}
    assert {name: (o["gating"], o["score_gating"]) for name, o in gates.items()} == {
        "netvlad_no_gating": ("none", "none"),
        "netvlad_cg_pooling": ("cg", "none"),
        "netvlad_glu_cg": ("glu", "scores"),
        "netvlad_cg_both": ("cg", "scores"),
    }


@pytest.mark.parametrize(
    ("name", "descriptor"),
    [
        ("gated_netvlad_256", 256 * 1024 + 128 * 128),
        ("gated_netfv_128", 2 * (128 * 1024 + 64 * 128)),
        ("soft_dbow_4096", 4096 + 512),
        ("lstm", 4 * 1024),  # cell and state of two layers
        ("gru", 2 * 1200),
        ("baseline2_mean_moe", 1152),
    ],
)
def test_sizes_of_the_published_descriptors(name, descriptor):
    recipe = load_recipe(f"willow2017/{name}")
    with torch.device("meta"):
        model = build_model(recipe, 4716)
        assert model.forward_features(torch.zeros(2, 3, 1152)).shape == (2, descriptor)
        assert model(torch.zeros(2, 3, 1152)).shape == (2, 4716)


def test_every_ensemble_of_the_documents_has_its_figure():
    assert {name: tuple(Ensemble.read(name).source.reported.values()) for name in list_ensembles()} == ENSEMBLES


@pytest.mark.parametrize(
    "name",
    [
        "qiniu2018/vggish_kinetics",
        "qiniu2018/mfcc_se_resnet50_moments",
        "rippleai2019/envnet_v2",
        *(f"alibaba2019/{name}" for name in ("m34_res", "envnet_v2", "logmel_resnet34")),
    ],
)
def test_networks_on_sound_take_what_their_recipe_gives(name):
    recipe = load_recipe(name)
    audio = recipe.data.audio
    with torch.device("meta"):
        model = build_model(recipe, 5)
        assert modalities_of(recipe, model) == ("audio",)
        assert model.rate_hz == audio.rate_hz
        for count in {training_samples(audio), test_samples(audio)}:
            assert model(torch.zeros(2, count)).shape == (2, 5)
    assert not model.fixed_length or training_samples(audio) == model.num_samples


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("qiniu2018/tsn_dpn107_kinetics_flow", 10),
        ("alibaba2019/p3d_resnet101_flow", 2),
        ("quovadis2017/c_two_stream_full", 20),
    ],
)
def test_networks_on_flow_take_what_their_recipe_gives(name, channels):
    recipe = load_recipe(name)
    assert recipe.data.flow.channels == channels
    with torch.device("meta"):
        model = build_model(recipe, 5)
    assert modalities_of(recipe, model) == (("rgb", "flow") if "two_stream" in name else ("flow",))
    own = model.example_input()[0]
    assert (own["flow"] if isinstance(own, dict) else own).shape[2] == channels
