"""Non-local blocks against AlexHex7's and PyTorchVideo's, under drawn weights."""

import pytest

from reeltag.hub.published import from_published


@pytest.mark.parametrize("name", ["embedded_gaussian_nopool", "embedded_gaussian_pool", "gaussian_nopool"])
def test_softmax_blocks_of_alexhex7(name, visual_record):
    stored = visual_record(f"nonlocal__nonlocal3d_{name}")
    block = from_published(stored.weights(), source="nonlocal", name="nonlocal_block")
    assert sum(p.numel() for p in block.parameters()) == stored.data["params"]
    stored.agree(block(stored.inputs()[0]))


@pytest.mark.parametrize("name", ["dot_product_nopool", "dot_product_pool", "concatenation_pool"])
def test_blocks_of_alexhex7_that_divide_by_the_number_of_places(name, visual_record):
    stored = visual_record(f"nonlocal__nonlocal3d_{name}")
    pairing = name.rsplit("_", 1)[0]
    block = from_published(stored.weights(), source="nonlocal", name="nonlocal_block", pairing=pairing)
    assert sum(p.numel() for p in block.parameters()) == stored.data["params"]
    stored.agree(block(stored.inputs()[0]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax_nopool", {}),
        ("softmax_pool", {"pool": "before"}),
        ("dot_product_nopool", {"pairing": "dot_product"}),
    ],
)
def test_blocks_of_pytorchvideo(name, options, visual_record):
    stored = visual_record(f"pytorchvideo__create_nonlocal_{name}")
    block = from_published(stored.weights(), source="pytorchvideo", name="nonlocal_block", **options)
    stored.agree(block(stored.inputs()[0]))
