"""Binary cross-entropy: the formula, its options, and published values."""

import json
import math
from pathlib import Path

import pytest
import torch

from reeltag.losses.bce import bce

RECORD = json.loads((Path(__file__).parents[1] / "parity/records/definitions__losses.json").read_text())


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return logits, torch.rand(3, 5, generator=generator, dtype=torch.float64)


def pair_loss(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_equals_the_formula_with_every_option():
    logits, targets = drawn()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64)
    ignore = torch.zeros(3, 5, dtype=torch.bool)
    ignore[0, 1] = ignore[2, 4] = True
    expected = sum(
        weight[j].item() * pair_loss(logits[i, j].item(), 0.9 * targets[i, j].item() + 0.05)
        for i in range(3)
        for j in range(5)
        if not ignore[i, j]
    )
    value = bce(logits, targets, scale=160, weight=weight, ignore=ignore, smoothing=0.1)
    assert value.item() == pytest.approx(160 * expected / 13, rel=1e-12)
    assert bce(logits, targets).item() == pytest.approx(
        sum(pair_loss(x, y) for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)) / 15,
        rel=1e-12,
    )


@pytest.mark.parametrize("case", ["degenerate_rows", "regular", "extreme_x25"])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("bce_mean", {}),
        ("bce_mean_x160", {"scale": 160}),
        ("bce_sum_over_classes_mean_over_rows", {"scale": 7}),
        ("bce_classweight_sqrt_Ni_over_Nmean", {"power": 0.5}),
        ("bce_classweight_Ni_over_Nmean", {"power": 1}),
        ("bce_classweight_inverse_sqrt (Nmean/Ni)^.5", {"power": -0.5}),
        ("bce_classweight_inverse Nmean/Ni", {"power": -1}),
    ],
)
def test_published_values_and_gradients(case, key, options):
    inputs, expected = RECORD["inputs"][case], RECORD["results"][case][key]
    logits = torch.tensor(inputs["logits"], dtype=torch.float64).requires_grad_()
    counts = torch.tensor(RECORD["class_counts"], dtype=torch.float64)
    weight = (counts / counts.mean()) ** options["power"] if "power" in options else None
    loss = bce(logits, torch.tensor(inputs["targets"]), scale=options.get("scale", 1), weight=weight)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-7)  # the record keeps 9 digits
    assert logits.grad.flatten().tolist() == pytest.approx(expected["grad"], rel=1e-6, abs=1e-12)


def test_half_precision_logits_are_summed_in_float32():
    logits, targets = torch.randn(64, 313).to(torch.bfloat16), torch.zeros(64, 313)
    assert bce(logits, targets).dtype == torch.float32
    assert bce(logits, targets).item() == pytest.approx(bce(logits.double(), targets).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale > 0"),
        ({"smoothing": 1.0}, r"smoothing in \[0, 1\)"),
        ({"weight": torch.ones(4)}, r"\(5,\), one per label, got \(4,\)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bce(*drawn(), **options)
