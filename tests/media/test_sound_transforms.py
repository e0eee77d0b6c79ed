"""Variations of sound against the published code of between-class learning."""

import json
from pathlib import Path

import pytest
import torch

from reeltag.media.sound_transforms import amplify, change_speed, even_crops

RECORD = json.loads(
    (Path(__file__).parents[1] / "parity/records/bc_learning_sound__bc_mix_and_augment.json").read_text()
)["augment"]
WAVE = torch.arange(20, dtype=torch.float64)


@pytest.mark.parametrize("drawn", ["-1", "-0.5", "0.5", "1"])
def test_speed(drawn):
    expected = RECORD[f"random_scale(1.25) uniform={drawn} of arange(20)"]["linear"]["values"]
    assert change_speed(WAVE, 1.25 ** float(drawn)).tolist() == pytest.approx(expected, rel=1e-8)


def test_loudness():
    assert amplify(torch.ones(4, dtype=torch.float64), 3).tolist() == pytest.approx(
        RECORD["random_gain(6) uniform=3 of ones(4)"]["values"], rel=1e-8
    )


def test_even_crops_of_a_padded_wave():
    padded = torch.nn.functional.pad(WAVE, (5, 5))
    crops = even_crops(padded, 10, 10)
    record = RECORD["padding(5) then multi_crop(10,10) starts of arange(20)"]
    assert list(crops.shape) == record["shape"]
    assert crops[:, 0].tolist() == record["out_first_of_each"]
    assert torch.equal(even_crops(WAVE, 20, 1)[0], WAVE)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="does not fit into 20"):
        even_crops(WAVE, 21, 2)
    with pytest.raises(ValueError, match=r"cannot be stretched by 0.01"):
        change_speed(WAVE, 0.01)
