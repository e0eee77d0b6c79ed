"""TSN, TSM, TIN and TRN against the outputs of their published code, by way of `from_published`."""

from itertools import combinations

import pytest
import torch

from reeltag.hub import from_published
from reeltag.layers.temporal_shift import temporal_shift


def params_of(model):
    return sum(p.numel() for p in model.parameters())


# Record, source, our name, frames of a clip.
NETWORKS = [
    ("tsm__tsn_resnet50_8f", "tsm", "tsn_resnet50", 8),
    ("tsm__tsn_resnet101_3f", "tsm", "tsn_resnet101", 3),
    ("tsm__tsm_resnet50_8f", "tsm", "tsm_resnet50", 8),
    ("tsm__tsm_resnet50_8f_block", "tsm", "tsm_resnet50", 8),
    ("tsm__tsm_nl_resnet50_8f", "tsm", "tsm_nl_resnet50", 8),
    ("xtemporal__tsm_resnet101_8f", "xtemporal", "tsm_resnet101", 8),
    ("tin__tin_resnet50_8f", "tin", "tin_resnet50", 8),
    ("trn__trn_multiscale_resnet50_8f", "trn", "trn_resnet50", 8),
    ("mmaction2__tsn_r50_3f", "mmaction2", "tsn_resnet50", 3),
    ("mmaction2__tsm_r50_8f", "mmaction2", "tsm_resnet50", 8),
    ("mmaction2__tin_r50_8f", "mmaction2", "tin_resnet50", 8),
    ("mmaction2__trn_r50_8f", "mmaction2", "trn_resnet50", 8),
]


@pytest.mark.parametrize(("record", "source", "name", "frames"), NETWORKS)
def test_network_equals_the_published_one(visual_record, record, source, name, frames):
    record = visual_record(record)
    model = from_published(record.weights(), source=source, name=name)
    assert params_of(model) == record.data["params"]
    with torch.inference_mode():
        record.agree(model(record.clip(num_frames=frames)))


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1])
def test_trn_on_bninception_equals_the_published_one(visual_record, case):
    record = visual_record("trn__trn_multiscale_bninception_8f")
    model = from_published(record.weights(), source="trn", name="trn_bninception")
    assert params_of(model) == record.data["params"]
    if case:  # drawn relations: lexicographic numbers for the scales below T, whose one relation is all frames
        drawn = [[0], *record.cases[1]["note"]]
        every = [list(combinations(range(8), scale)) for scale in range(8, 1, -1)]
        model.classifier.fix_relations([[all_[i] for i in some] for all_, some in zip(every, drawn, strict=True)])
    with torch.inference_mode():
        record.agree(model(record.clip(case, num_frames=8)), case)


def test_shift_equals_the_published_operation(visual_record):
    record = visual_record("tsm__shift_op")
    record.agree(temporal_shift(torch.arange(32.0).view(4, 8, 1, 1), 4, fraction=1 / 8))


def test_interlacing_layer_equals_the_published_one(visual_record):
    record = visual_record("tin__tin_module")
    layer = from_published(record.weights(), source="tin", name="temporal_interlace")
    assert params_of(layer) == record.data["params"]
    record.agree(layer(record.inputs()[0]))


def test_relation_layer_equals_the_published_one(visual_record):
    record = visual_record("trn__trn_head_small")
    layer = from_published(record.weights(), source="trn", name="temporal_relation")
    assert params_of(layer) == record.data["params"]
    record.agree(layer(record.inputs()[0]))
