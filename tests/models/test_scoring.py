"""What makes probabilities of logits, and in which order views are averaged, by hand."""

import math

import pytest
import torch

from reeltag.models.scoring import average_views, score_batch

LOGITS = torch.tensor([[[0.0, math.log(3.0), math.log(4.0)], [math.log(2.0), 0.0, math.log(2.0)]]])  # (1, 2, 3)
# exp: 1, 3, 4 of 8 and 2, 1, 2 of 5. The mean of logits is half the log of 2, 3, 8.
ROOTS = [2**0.5, 3**0.5, 8**0.5]


@pytest.mark.parametrize(
    ("average", "activation", "expected"),
    [
        ("probabilities", "softmax", [(1 / 8 + 2 / 5) / 2, (3 / 8 + 1 / 5) / 2, (4 / 8 + 2 / 5) / 2]),
        ("logits", "softmax", [root / sum(ROOTS) for root in ROOTS]),
        ("probabilities", "sigmoid", [(1 / 2 + 2 / 3) / 2, (3 / 4 + 1 / 2) / 2, (4 / 5 + 2 / 3) / 2]),
        ("logits", "sigmoid", [root / (1 + root) for root in ROOTS]),
    ],
)
def test_averages_by_hand(average, activation, expected):
    assert average_views(LOGITS, average, activation)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_single_views_are_probabilities_of_the_same_kind():
    batch = {"video": LOGITS.reshape(1, 2, 1, 3, 1, 1)}  # (B, V, T, C, H, W)
    scores, views = score_batch(torch.nn.Flatten(), batch, "probabilities", activation="softmax")
    assert views[0].tolist() == [pytest.approx([1 / 8, 3 / 8, 1 / 2]), pytest.approx([0.4, 0.2, 0.4])]
    assert scores.sum().item() == pytest.approx(1)
    assert score_batch(torch.nn.Flatten(), batch, "logits")[1][0, 0, 0].item() == 0.5
