"""Flow of textures whose shift is known, and the bytes it is stored in."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reeltag.errors import ReeltagError
from reeltag.media.flow import (
    compute_flow,
    dequantise,
    flow_between,
    flow_image,
    pairs_of,
    quantise,
    require_opencv,
    resize_flow,
)
from reeltag.media.transforms import negated

WAVES = 24


def texture(x_px: float, y_px: float, *, height: int = 96, width: int = 128, seed: int = 0) -> torch.Tensor:
    """A sum of plane waves 12 to 60 px long, seen (x_px, y_px) earlier: uint8 (3, H, W), exact for any shift.

    texture(u, v) shows what texture(0, 0) shows, moved by u to the right and v down.
    """
    random = np.random.default_rng(seed)
    angle, length = random.uniform(0, 2 * np.pi, WAVES), random.uniform(12, 60, WAVES)
    phase = random.uniform(0, 2 * np.pi, WAVES)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    along = (x - x_px)[..., None] * np.cos(angle) + (y - y_px)[..., None] * np.sin(angle)
    level = np.sin(2 * np.pi * along / length + phase).sum(-1) / np.sqrt(WAVES / 2)  # (H, W), deviation 1
    grey = np.clip(128 + 50 * level, 0, 255).round().astype(np.uint8)
    return torch.from_numpy(grey).expand(3, -1, -1)


# Mean error in pixels, 8 px from the border, that was measured: below a third of these bounds.
SHIFTS = [(1, 0), (-3, 2), (0, -5), (0.5, 0.25), (-1.75, 3.5), (0, 0)]


@pytest.mark.parametrize(("method", "bound_px"), [("tvl1", 0.1), ("dis", 0.1)])
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_known_shift_is_found_with_its_sign(method, bound_px, shift):
    flow = flow_between(texture(0, 0), texture(*shift), method)
    assert flow.dtype == torch.float32
    error = (flow - torch.tensor(shift)[:, None, None])[:, 8:-8, 8:-8].square().sum(0).sqrt()
    print(method, shift, float(error.mean()), float(error.max()))
    assert error.mean() < bound_px
