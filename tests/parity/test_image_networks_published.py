"""The image backbones against Cadene's pretrained-models: TSN of one frame gives the image's logits."""

import pytest
import torch

from reeltag.build import create_model
from reeltag.hub import from_published

# Record, our name, GMACs at the size of the record as published.
NETWORKS = [
    ("cadene__bninception", "bninception", 2.03),
    ("cadene__inceptionv4", "inception_v4", 12.25),
    ("cadene__inceptionresnetv2", "inception_resnet_v2", 13.16),
    ("cadene__dpn107", "dpn107", 18.30),
    ("cadene__senet154", "senet154", 20.69),
    ("cadene__polynet", "polynet", 34.70),
]


@pytest.mark.parametrize(
    ("record", "name"),
    [pytest.param(r, n, marks=[] if n == "bninception" else pytest.mark.slow) for r, n, _ in NETWORKS],
)
def test_network_equals_the_published_one(visual_record, record, name):
    record = visual_record(record)
    model = from_published(record.weights(), source="cadene", name=name)
    assert sum(p.numel() for p in model.parameters()) == record.data["params"]
    with torch.inference_mode():
        record.agree(model(record.clip()))


@pytest.mark.parametrize(("record", "name", "gmacs"), NETWORKS)
def test_size_and_cost_are_those_of_the_published_network(visual_record, record, name, gmacs):
    record = visual_record(record)
    with torch.device("meta"):
        model = create_model(f"tsn_{name}", num_labels=1000)
    assert sum(p.numel() for p in model.parameters()) == record.data["params"]
    shape = record.cases[0]["inputs"][0]["shape"]
    assert model.flops(torch.zeros(1, 1, *shape[1:], device="meta")) / 2e9 == pytest.approx(gmacs, rel=0.01)
