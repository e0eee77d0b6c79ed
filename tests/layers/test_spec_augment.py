"""SpecAugment blanks what it says, in training alone."""

import pytest
import torch

from reeltag.layers.spec_augment import SpecAugment


def test_stretches_are_blank_whole_and_within_the_limits():
    torch.manual_seed(0)
    augment = SpecAugment(max_frames=10, max_bands=4, time_masks=1, band_masks=1)
    x = torch.ones(500, 16, 40)
    y = augment(x)
    rows, columns = (y == 0).all(2), (y == 0).all(1)  # whole bands, whole frames
    assert torch.equal(y == 0, rows.unsqueeze(2) | columns.unsqueeze(1))
    assert rows.sum(1).max() == 4
    assert rows.sum(1).min() == 0
    assert columns.sum(1).max() == 10
    assert columns.sum(1).float().mean().item() == pytest.approx(5, abs=0.5)  # evenly from 0 to 10
    edges = (columns[:, 1:] != columns[:, :-1]).sum(1) + columns[:, 0] + columns[:, -1]
    assert set(edges.tolist()) <= {0, 2}  # one stretch
    assert columns.float().mean(0).min() > 0.005  # anywhere
    augment.eval()
    assert augment(x) is x
    with pytest.raises(ValueError, match="at least 0"):
        SpecAugment(-1)
